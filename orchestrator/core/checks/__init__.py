"""Checks of hosts and of pairs of hosts, and the findings that ``orch doctor`` and the preflight report."""
