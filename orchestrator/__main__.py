"""Makes ``python -m orchestrator`` the same as ``orch``."""

from orchestrator.cli import main

main()
