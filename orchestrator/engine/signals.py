"""Signal handlers for the time of a run, and of a wait for one."""

from __future__ import annotations

import signal
import threading
import time
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


# How long a wait goes on after Ctrl-C at the most, in seconds.
SLICE = 0.1


@contextmanager
def interrupted_in_pauses() -> Iterator[Callable[[float], None]]:
    """Give the body a ``time.sleep`` that raises KeyboardInterrupt after SIGINT, which otherwise acts at the end.

    What a handler raises could be swallowed in a callback, or leave a connection's lock locked. The second SIGINT
    is handled as before. Other threads than the main one get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield time.sleep
        return
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, usual)

    def pause(seconds: float) -> None:
        until = time.monotonic() + seconds
        while not received and (left := until - time.monotonic()) > 0:
            time.sleep(min(SLICE, left))
        if received:
            raise KeyboardInterrupt

    usual = signal.signal(signal.SIGINT, note)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, usual)
    if received:
        raise KeyboardInterrupt
