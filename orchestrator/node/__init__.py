"""The node program: standard library only, Python >= 3.7; imports nothing of the project but ``protocol``."""
