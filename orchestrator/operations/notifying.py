"""``--notify``: tell the user of a run, from threads of its own, so that nothing holds the run up."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from orchestrator.core.run.notice import Notice, Notices
from orchestrator.core.run.output import Output
from orchestrator.core.text.secret import masked
from orchestrator.errors import OrchError, UsageError
from orchestrator.local.notifying import NotTold, NotToldYet, check, deliver, shown
from orchestrator.operations.run.running import Live
from orchestrator.protocol.events import Event
from orchestrator.ui.display import Display

# Pauses between tries, in seconds.
PAUSES = (1.0, 4.0)
# How long orch waits at its end for notices that are not delivered yet, in seconds.
PATIENCE = 20.0


class Notifier:
    """Delivers the notices of one run to each of ``places``. Raises UsageError for a place that cannot be used."""

    def __init__(self, places: Sequence[str], display: Display, *, detach: bool = False) -> None:
        if places and detach:
            raise UsageError(
                "--detach and --notify exclude each other: no control process is left to tell anyone",
                remedy="leave --detach out and start orch in tmux, or pass --notify to orch attach",
            )
        for place in places:
            check(place)
        self.places = places
        self.display = display
        self._notices: Notices | None = None
        self._failures: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def follow(self, live: Live, name: str | None) -> None:
        """Tell of this run from now on."""
        self._notices = Notices(live.run_id, live.recording.workload, name)

    def heard(self, item: Event | Output) -> None:
        """Tell of an event if it is worth it. Returns at once."""
        if self._notices is not None and isinstance(item, Event):
            notice = self._notices.of(item)
            if notice is not None:
                self._tell(notice)

    @contextmanager
    def telling(self, workload: str | None = None, name: str | None = None) -> Iterator[None]:
        """After the body, wait for notices that are not delivered yet, and say which could not be.

        If the body raises an error before there is a run of ``workload``, tell of that.
        """
        try:
            yield
        except OrchError as error:
            if self._notices is None and workload is not None:
                self._tell(Notices("", workload, name).not_started(error.message))
            raise
        finally:
            self._finish()

    def _tell(self, notice: Notice) -> None:
        for place in self.places:
            thread = threading.Thread(target=self._deliver, args=(place, notice), daemon=True, name="notify")
            self._threads.append(thread)
            thread.start()

    def _finish(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while not self._failures.empty():
            self.display.note(self._failures.get())
        if late := sum(thread.is_alive() for thread in self._threads):
            self.display.note(f"notify: {late} not delivered within {PATIENCE:.0f} s")

    def _deliver(self, place: str, notice: Notice) -> None:
        said = ""
        for pause in (0.0, *PAUSES):
            time.sleep(pause)
            try:
                deliver(place, notice)
                return
            except NotToldYet as error:
                said = str(error)
            except NotTold as error:
                said = str(error)
                break
        self._failures.put(f"notify: {shown(place)} was not told that the run {notice.verb}: {masked(said)}")
