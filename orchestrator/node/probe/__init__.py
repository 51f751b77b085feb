"""Gather the facts of this node, and find out which other nodes it reaches."""
