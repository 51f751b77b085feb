"""What runs on the nodes: standard library only, Python >= 3.8, imports nothing else of the project."""
