"""Self-contained training and message-passing scripts, each worth copying."""
