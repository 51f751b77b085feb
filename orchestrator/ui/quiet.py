"""A display for programs: nothing is printed, and a callback is told what goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.errors import OrchError
from orchestrator.ui.console import Screen
from orchestrator.ui.display import Display, Stage

Progress = Callable[[str], object]


class QuietDisplay(Display):
    """Tells ``progress`` each line that a command would have shown on stderr."""

    def __init__(self, progress: Progress | None = None) -> None:
        super().__init__()
        self.err = Screen(stderr=True, quiet=True)
        self.out = Screen(quiet=True)
        self.terminal = self.coloured = False
        self._progress = progress or (lambda line: None)

    @contextmanager
    def stage(self, doing: str) -> Iterator[Stage]:
        """A step: told when it begins, and what came of it."""
        stage = Stage()
        began = time.monotonic()
        self._progress(doing)
        yield stage
        result = f": {stage.result}" if stage.result else ""
        self._progress(f"{doing}{result}  {time.monotonic() - began:.1f} s")

    def note(self, text: str) -> None:
        """A line of orch's own."""
        self._progress(text)

    def error(self, error: OrchError) -> None:
        """An error that ends nothing."""
        self._progress(f"error: {error}")

    def write_bytes(self, data: bytes, descriptor: int = 1) -> None:
        """Print nothing: whoever wants a result asks for it."""
