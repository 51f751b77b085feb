"""What a run needs beside its nodes' parts: its outputs, what made it fail, and its next attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from orchestrator.core.diagnosis.diagnosis import Diagnosis, diagnose, scan
from orchestrator.core.inventory.hosts import Outputs
from orchestrator.core.run.actions import Prepare
from orchestrator.core.run.inputs import NotPrepared
from orchestrator.core.run.result import RunResult
from orchestrator.engine.engine import Ready
from orchestrator.errors import OrchError
from orchestrator.local.run_folder import RunFolder
from orchestrator.protocol.events import Collected, CollectFailed, Event, Evidence
from orchestrator.remote import outputs
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.ui.display import Display

Note = Callable[[Event], None]


class NoErrands:
    """A run that is only looked at."""

    def collect(self, names: tuple[str, ...], final: bool, note: Note) -> None:
        """Fetch nothing."""

    def explain(self, result: RunResult, note: Note) -> Diagnosis | None:
        """Explain nothing."""
        return None

    def prepare(self, order: Prepare, result: RunResult, note: Note) -> Ready | NotPrepared:
        """There is no further attempt."""
        return NotPrepared(order.attempt)


class Aftermath(NoErrands):
    """Fetches and explains what nodes of a run left; there is no attempt after this one."""

    def __init__(self, nodes: Mapping[str, Node], outputs: Outputs, folder: RunFolder, display: Display) -> None:
        self.nodes = dict(nodes)
        self.outputs = outputs
        self.folder = folder
        self.display = display
        # What was said of each node last, so that no interval repeats it.
        self._said: dict[str, str] = {}

    def collect(self, names: tuple[str, ...], final: bool, note: Note) -> None:
        """Collect from these nodes; one that fails is named, the others' files are kept."""
        if not final:
            self._collect(names, note)
            return
        with self.display.stage("collecting outputs") as stage:
            stage.result = f"{self._collect(names, note) / 1e6:.1f} MB"

    def _collect(self, names: tuple[str, ...], note: Note) -> int:
        """Fetch, note what came of it, and say once what did not come; the bytes that came."""
        run_id, size = self.folder.path.name, 0

        def collect_from(node: Node) -> outputs.CollectedOutputs:
            return outputs.collect(node, run_id, self.outputs, self.folder.node_folder(node.name))

        nodes = [self.nodes[name] for name in names]
        for node, outcome in zip(nodes, on_all(nodes, collect_from), strict=True):
            if isinstance(outcome, OrchError):
                note(CollectFailed(time=time.time(), node=node.name, reason=outcome.message))
                said = f"its outputs could not be fetched: {outcome.message}"
            else:
                size += outcome.size
                note(
                    Collected(
                        time=time.time(),
                        node=node.name,
                        files=outcome.files,
                        bytes=outcome.size,
                        left=outcome.left,
                        lacking=outcome.lacking,
                    )
                )
                said = f"its newest snapshot stays there: {outcome.lacking}" if outcome.lacking else ""
            if said and self._said.get(node.name) != said:
                self.display.note(f"{node.name}: {said}")
            self._said[node.name] = said
        return size

    def explain(self, result: RunResult, note: Note) -> Diagnosis | None:
        """Look for what went wrong in the logs of all nodes, note it, and say what it amounts to."""
        if result.ok or not result.failures:
            return None
        for node, rank, text in self.folder.tails():
            for signature, line in scan(text):
                event = Evidence(time=time.time(), node=node, rank=rank, signature=signature, line=line)
                note(event)
                result = result.after(event)
        found = diagnose(result)
        if found is not None:
            note(found.as_event(time.time()))
        return found
