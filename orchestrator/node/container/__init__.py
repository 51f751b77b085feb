"""Containers on the node: the engine, its images, and the containers of runs."""
