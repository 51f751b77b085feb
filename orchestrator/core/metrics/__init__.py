"""Metrics of runs: how they are read from what a script wrote or printed, and drawn."""
