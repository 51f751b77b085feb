"""Messages about what a run is doing now."""
