"""The operations on a run, from its options to its end."""
