"""What orch does on the control machine itself: the folder of a run, wheels, data sets."""
