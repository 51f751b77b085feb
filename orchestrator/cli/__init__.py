"""The command line: the verbs, their options, and the program that runs one of them."""

from orchestrator.cli.program import main

__all__ = ["main"]
