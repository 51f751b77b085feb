"""The host that the node program runs on: its lock, its processes, where things are kept."""
