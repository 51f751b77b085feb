"""What runs on the nodes: standard library only, Python >= 3.7, imports nothing else of the project."""
