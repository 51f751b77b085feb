"""What goes to nodes and comes back: project folders, data and outputs as values."""
