"""Verbs and options for runs that this machine has recorded."""
