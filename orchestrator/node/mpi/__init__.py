"""Ranks that mpirun starts: mpirun on the first node, its daemons on the others, and each rank's own process."""
