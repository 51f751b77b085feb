"""Access to other machines over the network."""
