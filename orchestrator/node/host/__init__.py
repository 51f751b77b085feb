"""The host that the node program runs on: its lock, its processes, its files and their paths."""
