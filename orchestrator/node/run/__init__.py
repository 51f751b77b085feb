"""The verbs that act on a run on this node: start, follow, stop, list and collect; and its supervisor."""
