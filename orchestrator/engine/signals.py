"""What signals mean while a run goes on."""

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
    """SIGINT and SIGTERM stop the run (a second one without grace, a third at once); SIGQUIT leaves it going."""
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
