"""Change the SSH files of this user, and undo that."""
