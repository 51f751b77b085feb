"""Carries out the decisions of ``core/run`` over real connections, and owns every thread of a run."""
