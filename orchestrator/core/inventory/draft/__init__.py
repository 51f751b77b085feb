"""Hosts files that are yet to be written: what a user types, what orch proposes, and the text."""
