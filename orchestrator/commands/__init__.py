"""One file a verb; each only sequences what the other layers do."""
