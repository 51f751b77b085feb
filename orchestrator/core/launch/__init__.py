"""From an inventory and facts to the command that each node runs."""
