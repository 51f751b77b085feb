"""What the ranks of a run are doing now, in few lines."""
