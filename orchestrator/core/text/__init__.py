"""Text and bytes from outside, made fit to be shown."""
