"""Signal handlers for the time of a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.core.run.policy import Grace
from orchestrator.engine.engine import Engine

Handler = Callable[[int, FrameType | None], object] | int | None


@contextmanager
def obeying_signals(engine: Engine, grace: Grace) -> Iterator[None]:
    """Handle signals while the body runs: SIGINT and SIGTERM stop the run, SIGQUIT leaves it going.

    The second SIGINT or SIGTERM stops the run without grace; the third raises KeyboardInterrupt.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGQUIT:
            engine.leave()
            return
        received.append(number)
        if len(received) > 2:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        engine.stop("interrupted" if number == signal.SIGINT else name, grace.stop if len(received) == 1 else 0.0)

    before: dict[int, Handler] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGQUIT)):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
