"""What a user sees: the only code that prints. It takes values, and opens no connection."""
