"""Set up logins with keys, from this machine to the hosts and between nodes, and undo that."""
