"""Batch jobs of Slurm, over the connection to the login node."""
