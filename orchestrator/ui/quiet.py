"""A display for programs: it prints nothing, and passes progress to a callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from orchestrator.core.text.alike import of_errors
from orchestrator.errors import HostErrors, OrchError
from orchestrator.ui.console import Screen
from orchestrator.ui.display import Display, Stage

Progress = Callable[[str], object]


class QuietDisplay(Display):
    """Passes each line that a command would show on stderr to ``progress``."""

    def __init__(self, progress: Progress | None = None) -> None:
        super().__init__()
        self.err = Screen(stderr=True, quiet=True)
        self.out = Screen(quiet=True)
        self.terminal = self.coloured = False
        self._progress = progress or (lambda line: None)

    @contextmanager
    def stage(self, doing: str) -> Iterator[Stage]:
        """Report a step when it begins, and its result and duration when it ends."""
        stage = Stage()
        began = time.monotonic()
        self._progress(doing)
        yield stage
        result = f": {stage.result}" if stage.result else ""
        self._progress(f"{doing}{result}  {time.monotonic() - began:.1f} s")

    def note(self, text: str) -> None:
        """Report a line."""
        self._progress(text)

    def error(self, error: OrchError) -> None:
        """Report an error that does not end the command."""
        if isinstance(error, HostErrors):
            self.errors([error])
        else:
            self._progress(f"error: {error}")

    def errors(self, errors: Iterable[OrchError]) -> None:
        """Report errors of hosts, alike ones once."""
        for said in of_errors(errors):
            self._progress(f"error: {said}")

    def write_bytes(self, data: bytes, descriptor: int = 1) -> None:
        """Print nothing: a program gets results as return values."""
