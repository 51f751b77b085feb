"""What the preflight looks at, and what it says."""
