"""orch: multi-node PyTorch training on machines that answer SSH. ``Cluster`` is the Python API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from orchestrator.api import Cluster, Examination, Line, Run
    from orchestrator.errors import OrchError

__all__ = ["Cluster", "Examination", "Line", "OrchError", "Run", "__version__"]


def __getattr__(name: str) -> Any:
    # Importing the API loads SSH. The command line imports this package, too, and often needs no SSH.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator import api

    return getattr(api, name)
