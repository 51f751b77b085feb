"""The diagnosis of a failed run: its cause, the node and rank to blame, and a remedy."""
