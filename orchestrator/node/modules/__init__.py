"""Modules that scripts may import on nodes: this folder, a part of the node program, is added to PYTHONPATH."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "PYTHONPATH"


def python_path(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that makes the modules known, after whatever ``environ`` has in it."""
    here = os.path.dirname(os.path.abspath(__file__))
    places = [place for place in environ.get(VARIABLE, "").split(os.pathsep) if place]
    return {VARIABLE: os.pathsep.join(places if here in places else [*places, here])}
