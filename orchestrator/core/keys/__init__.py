"""Which entries SSH files should have: of the user's key on the hosts, and of the nodes' keys on each other."""
