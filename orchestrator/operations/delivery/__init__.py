"""Delivery of code, environments and data to the nodes, and the removal of old ones there."""
