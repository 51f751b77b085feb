"""What a failed run amounts to."""
