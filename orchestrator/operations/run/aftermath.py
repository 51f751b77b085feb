"""The errands of a run: collect its outputs, explain its failure, prepare its next attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from orchestrator.core.diagnosis.diagnosis import Diagnosis, diagnose, scan
from orchestrator.core.inventory.hosts import Outputs
from orchestrator.core.run.actions import Look, Prepare
from orchestrator.core.run.inputs import NotPrepared
from orchestrator.core.run.result import RunResult
from orchestrator.engine.engine import Ready
from orchestrator.errors import OrchError
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.tracing.hangs import hang
from orchestrator.protocol.events import Collected, CollectFailed, Event, Evidence, Hang
from orchestrator.remote import outputs
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.ui.display import Display

Note = Callable[[Event], None]


class NoErrands:
    """The errands of a run that is only read: none."""

    def collect(self, names: tuple[str, ...], final: bool, note: Note) -> None:
        """Fetch nothing."""

    def explain(self, result: RunResult, note: Note) -> Diagnosis | None:
        """Explain nothing."""
        return None

    def look(self, order: Look, result: RunResult) -> Hang:
        """Never asked: only a process that records a run looks at its ranks."""
        raise AssertionError(order)

    def prepare(self, order: Prepare, result: RunResult, note: Note) -> Ready | NotPrepared:
        """Prepare no further attempt."""
        return NotPrepared(order.attempt)


class CollectingErrands(NoErrands):
    """Collects the outputs of a run, looks at its ranks, and explains its failure. Prepares no further attempt.

    ``opened``: the cluster whose nodes can be asked for stacks; None where they cannot.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        outputs: Outputs,
        folder: RunFolder,
        display: Display,
        opened: OpenCluster | None = None,
    ) -> None:
        self.cluster = opened
        self.nodes = dict(nodes)
        self.outputs = outputs
        self.folder = folder
        self.display = display
        # The last message about each node, so that periodic collection does not repeat it.
        self._said: dict[str, str] = {}

    def collect(self, names: tuple[str, ...], final: bool, note: Note) -> None:
        """Fetch the outputs of these nodes. A node that fails is named; the files of the others are kept."""
        if not final:
            self._collect(names, note)
            return
        with self.display.stage("collecting outputs") as stage:
            stage.result = f"{self._collect(names, note) / 1e6:.1f} MB"

    def _collect(self, names: tuple[str, ...], note: Note) -> int:
        """Fetch outputs, note the results, and show each problem once. Return the number of bytes fetched."""
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
                said = f"its newest snapshot stays on the node: {outcome.lacking}" if outcome.lacking else ""
            if said and self._said.get(node.name) != said:
                self.display.note(f"{node.name}: {said}")
            self._said[node.name] = said
        return size

    def look(self, order: Look, result: RunResult) -> Hang:
        """Look at what the ranks do, and keep their stacks."""
        return hang(self.cluster, self.nodes, self.folder, order, result)

    def explain(self, result: RunResult, note: Note) -> Diagnosis | None:
        """Search all logs for evidence, note it, and return the diagnosis; None if the attempt did not fail."""
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
