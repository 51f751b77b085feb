"""Training and message-passing scripts to run and to copy."""
