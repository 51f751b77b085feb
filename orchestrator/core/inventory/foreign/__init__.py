"""Host lists that other tools keep, read as inventories."""
