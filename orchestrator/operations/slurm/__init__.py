"""Runs as batch jobs of Slurm."""
