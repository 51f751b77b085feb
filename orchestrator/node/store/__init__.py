"""What is synced to this node: trees of blobs, environments, data; and what goes when it is old."""
