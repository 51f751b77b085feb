"""What orch stores on the node: trees made of blobs, environments and data; and the removal of old items."""
