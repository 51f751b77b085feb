"""A run as values: what its events amount to, and the state machine that decides what is done next."""
