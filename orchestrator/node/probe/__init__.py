"""What this node is, and whom it reaches."""
