"""The command lines that run a node's launcher in a container: one file for each family of engines."""
