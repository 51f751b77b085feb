"""The parts of one step of a run's state machine."""
