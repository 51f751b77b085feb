"""What the ranks of a node are doing now."""
