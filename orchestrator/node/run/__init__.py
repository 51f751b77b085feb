"""A run on this node: start it, supervise it, follow it, end it, list it, send back what it wrote."""
