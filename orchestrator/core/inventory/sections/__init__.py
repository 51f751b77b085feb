"""The keys of a hosts file that hold tables of their own, as values."""
