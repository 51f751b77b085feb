"""Turn an inventory and facts into the command that each node runs."""
