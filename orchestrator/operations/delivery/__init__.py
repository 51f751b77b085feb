"""Code, environments and data on every node, and what is removed there."""
