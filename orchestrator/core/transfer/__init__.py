"""Project folders and data that go to nodes and outputs that come back, as values."""
