"""What carries out the decisions of ``core/run`` over real connections. It owns every thread of a run."""
