"""Hearing a run to its end, fetching what it wrote, and saying how it ended: what ``run`` and ``attach`` share."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.core.diagnosis import Diagnosis, diagnose, scan
from orchestrator.core.events import RunResult
from orchestrator.core.inventory import Inventory, Outputs
from orchestrator.display import Display
from orchestrator.errors import CannotRecord, Interrupted, NodeUnreachable, OrchError, SyncError, WorkloadFailed
from orchestrator.protocol.events import (
    Collected,
    CollectFailed,
    Event,
    Evidence,
    FailedToStart,
    Finished,
    NodeLost,
    Orphaned,
    RankFailed,
    RunFinished,
)
from orchestrator.remote import outputs
from orchestrator.remote.fanout import on_all
from orchestrator.remote.follower import Output, Sample
from orchestrator.remote.gang import FAILURE_GRACE, GRACE, Gang
from orchestrator.remote.node import Node
from orchestrator.rundir import RunFolder

LAST_LINES = 20
# Events after which the run cannot succeed any more.
FATAL = (RankFailed, FailedToStart, Finished, NodeLost, Orphaned)


@dataclass(frozen=True)
class Grace:
    """How long ranks may take to end, in seconds: when their user stops them, and after a failure."""

    stop: float = GRACE
    failure: float = FAILURE_GRACE


def grace_of(inventory: Inventory, asked: float | None = None) -> Grace:
    """What was asked for, else what the inventory says, else what is usual."""
    chosen = asked if asked is not None else inventory.grace
    return Grace() if chosen is None else Grace(chosen, chosen)


def watch(gang: Gang, folder: RunFolder, display: Display, grace: Grace) -> None:
    """Hear the gang to its end. The first failure stops the other nodes: they would wait in a collective.

    An elastic run's go on while enough are left. Raises CannotRecord, and leaves the run going, if this machine
    has no room for what it says.
    """
    try:
        _watch(gang, folder, display, grace)
    except CannotRecord:
        gang.leave()
        raise


def _watch(gang: Gang, folder: RunFolder, display: Display, grace: Grace) -> None:
    # Whoever records the run is the one who stops it.
    stopping = not folder.writing
    while (item := gang.next()) is not None:
        if isinstance(item, Output):
            folder.log(item)
            display.output(item)
        elif isinstance(item, Sample):
            display.sample(item)
        else:
            folder.record(item)
            display.event(item)
            if not stopping and isinstance(item, FATAL):
                result = folder.result()
                if result.failures and not result.bearable:
                    stopping = True
                    gang.stop(result.failures[0].describe(), grace.failure)


@contextmanager
def stopping_on_signals(gang: Gang, grace: Grace) -> Iterator[None]:
    """SIGINT and SIGTERM stop the run (a second one without grace, a third at once); SIGQUIT leaves it going."""
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if number == signal.SIGQUIT:
            gang.leave()
            return
        received.append(number)
        if len(received) > 2:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        seconds = grace.stop if len(received) == 1 else 0.0
        gang.stop("interrupted" if number == signal.SIGINT else name, seconds, by_user=True)

    before: dict[int, Callable[..., Any] | int | None] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGQUIT)):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Collector:
    """Fetches what the nodes of a run wrote, once at its end and, if asked to, every so often before."""

    def __init__(self, nodes: Sequence[Node], run_id: str, outputs: Outputs, folder: RunFolder) -> None:
        self.nodes = nodes
        self.run_id = run_id
        self.outputs = outputs
        self.folder = folder
        self._one_at_a_time = threading.Lock()
        self._over = threading.Event()
        # What was said of each node last, so that no interval repeats it.
        self._said: dict[str, str] = {}

    @contextmanager
    def every(self, seconds: float | None, display: Display) -> Iterator[None]:
        """Collect in the background meanwhile, so that the files of a node that is lost later are here."""

        def work() -> None:
            while not self._over.wait(seconds):
                known = self.folder.result().nodes
                # Whoever hears the run meets the full disk, too, and says so.
                with suppress(CannotRecord):
                    self._collect([node for node in self.nodes if known[node.name].state == "running"], display)

        if seconds is not None:
            threading.Thread(target=work, daemon=True, name="collect").start()
        try:
            yield
        finally:
            self._over.set()

    def finish(self, display: Display) -> None:
        """Collect from every node that was not lost; one that fails is named, the others' files are kept."""
        lost = self.folder.result().lost
        reachable = [node for node in self.nodes if node.name not in lost]
        with display.stage("collecting outputs") as stage:
            size = self._collect(reachable, display)
            stage.result = f"{size / 1e6:.1f} MB"

    def _collect(self, nodes: Sequence[Node], display: Display) -> int:
        """Fetch, record what came of it, and say once what did not come; the bytes that came."""

        def collect_from(node: Node) -> outputs.Collected:
            return outputs.collect(node, self.run_id, self.outputs, self.folder.node_folder(node.name))

        size = 0
        with self._one_at_a_time:
            for node, outcome in zip(nodes, on_all(nodes, collect_from), strict=True):
                if isinstance(outcome, OrchError):
                    event: Event = CollectFailed(time=time.time(), node=node.name, reason=outcome.message)
                    said = f"its outputs could not be fetched: {outcome.message}"
                else:
                    size += outcome.size
                    event = Collected(
                        time=time.time(),
                        node=node.name,
                        files=outcome.files,
                        bytes=outcome.size,
                        left=outcome.left,
                        lacking=outcome.lacking,
                    )
                    said = f"its newest snapshot stays there: {outcome.lacking}" if outcome.lacking else ""
                self.folder.record(event)
                if said and self._said.get(node.name) != said:
                    display.note(f"{node.name}: {said}")
                self._said[node.name] = said
        return size


def explain(folder: RunFolder) -> Diagnosis | None:
    """Look for what went wrong in the logs of all nodes, keep it as events, and say what it amounts to."""
    result = folder.result()
    if result.ok or not result.failures:
        return None
    for node, rank, text in folder.tails():
        for signature, line in scan(text):
            event = Evidence(time=time.time(), node=node, rank=rank, signature=signature, line=line)
            folder.record(event)
    found = diagnose(folder.result())
    if found is not None:
        folder.record(found.as_event(time.time()))
    return found


def conclude(folder: RunFolder, display: Display) -> int:
    """Show how it ended; the exit code that says so."""
    found = explain(folder)
    result = folder.result()
    code = exit_code(result, found)
    event = RunFinished(time=time.time(), exit_code=code)
    folder.record(event)
    display.event(event)
    lines = folder.last_lines(found.node, found.rank, LAST_LINES) if found and found.show_log else []
    display.summary(result, folder.path, found, lines)
    return code


def exit_code(result: RunResult, found: Diagnosis | None) -> int:
    """0 done, 1 failed, 4 a node was lost, 5 done but its outputs could not be fetched, 130 interrupted."""
    if result.ok:
        return SyncError.exit_code if any(node.uncollected for node in result.nodes.values()) else 0
    if found is None:
        return Interrupted.exit_code
    return NodeUnreachable.exit_code if found.node in result.lost else WorkloadFailed.exit_code
