"""The terminal, behind one door: whatever is printed through it, only its styles are commands to the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from orchestrator.core.text.escapes import visible

# How the states of nodes and runs are coloured.
STATE_STYLES = {
    "ok": "green",
    "running": "green",
    "reconnecting": "yellow",
    "stopping": "yellow",
    "stopped": "yellow",
    "failed": "red",
    "lost": "red",
    "rebooted": "red",
    "left over": "red",
    "not answering": "red",
}


class AsIs(str):
    """Text that goes through as it is: what a workload prints is meant for the user's terminal."""

    __slots__ = ()


class Screen(Console):
    """rich's console, in which brackets are brackets, and control characters are written out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich makes of it, less what is not text."""
        for segment in super().render(renderable, options):
            if segment.control or isinstance(segment.text, AsIs):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)
