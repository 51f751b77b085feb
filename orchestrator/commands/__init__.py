"""The verbs, one per file. Each only calls operations and the display in sequence."""
