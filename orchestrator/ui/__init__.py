"""Everything a user sees: the only code that prints. It shows values, and opens no connection."""
