"""Shows recorded runs."""
