"""Recorded runs as values: what a run was, how it ended, and how two runs differ."""
