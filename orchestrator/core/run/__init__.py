"""A run as values: the result of its events, and the state machine that decides the next actions."""
