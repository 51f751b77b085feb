"""Concurrent calls on many hosts; a failure on one host does not affect the others."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from orchestrator.errors import OrchError

Item = TypeVar("Item")
Result = TypeVar("Result")

DEFAULT_LIMIT = 64


def on_all(
    items: Sequence[Item], do: Callable[[Item], Result], *, limit: int = DEFAULT_LIMIT
) -> list[Result | OrchError]:
    """Return ``do(item)``, or the OrchError it raises, for every item in order; run ``limit`` at a time.

    Any other exception is a bug and is raised once all calls have finished. Threads are daemons, so Ctrl-C does
    not wait for a host that never answers.
    """
    results: list[Result | OrchError | None] = [None] * len(items)
    bugs: list[BaseException] = []
    finished: queue.SimpleQueue[None] = queue.SimpleQueue()
    waiting = iter(enumerate(items))
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                position, item = next(waiting, (None, None))
            if position is None:
                return
            try:
                results[position] = do(item)  # type: ignore[arg-type]
            except OrchError as error:
                results[position] = error
            except BaseException as error:
                bugs.append(error)
            finished.put(None)

    for _ in range(min(limit, len(items))):
        threading.Thread(target=work, daemon=True).start()
    for _ in items:
        finished.get()
    if bugs:
        raise bugs[0]
    return results  # type: ignore[return-value]


def failures(results: Sequence[Result | OrchError]) -> list[OrchError]:
    """Return the errors among the results of ``on_all``."""
    return [result for result in results if isinstance(result, OrchError)]
