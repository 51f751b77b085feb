"""Batch jobs of Slurm: submit one, look at them from the login node, and start a job's part on a compute node."""
