"""Make text and bytes from outside safe to show."""
