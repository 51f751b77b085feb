"""Ask the nodes of a run what its ranks are doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.inventory.hosts import DataSource, Host
from orchestrator.core.tracing.stacks import Group, groups
from orchestrator.errors import HostErrors, OrchError, PreflightError, UsageError
from orchestrator.local import pyspy
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.data import send_data
from orchestrator.operations.run.members import Member, find_members
from orchestrator.protocol.tracing.stacks import AskStacks, StacksHere
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.ui.display import Display

ON_A_NODE = "on a node of the job: py-spy dump --pid PID"
# States of a node's part of a run whose ranks may have processes.
LIVING = ("running", "stopping", "left over", "not answering")
# Where py-spy is sent to, below the workdir.
FOLDER = ".orch/tools"
# How long a node may take, in seconds: it reads eight ranks at a time.
LIMIT = 120.0
INSTALL = "install it beside the ranks' interpreter, or here: pip install py-spy"


@dataclass(frozen=True)
class Stacks:
    """What the ranks of a run are doing. ``here``: by node. ``errors``: of nodes that told nothing."""

    run_id: str
    groups: list[Group]
    here: dict[str, StacksHere]
    errors: list[OrchError]


class Looker:
    """Looks at the ranks of a run, as often as it is asked to."""

    def __init__(
        self,
        opened: OpenCluster,
        run_id: str,
        nodes: Sequence[Node],
        expected: Mapping[int, str],
        native: bool,
        display: Display,
    ) -> None:
        """Send the nodes of a run py-spy if they lack it. ``expected``: the node of each rank of the run.

        Raises UsageError, HostErrors.
        """
        self.run_id = run_id
        self.nodes = nodes
        self.expected = expected
        self.hosts = {host.name: host for host in opened.all_hosts}
        self.native = native
        self.tool = pyspy.found()
        if self.tool is not None:
            source = DataSource(str(self.tool.path), f"{{workdir}}/{FOLDER}/{self.name}")
            send_data(opened, nodes, source, None, display, label="py-spy")

    @classmethod
    def find(cls, opened: OpenCluster, run_id: str | None, native: bool, display: Display) -> Looker:
        """Find the run, with ``run_id`` None the only active one. Raises UsageError, HostErrors."""
        refuse_jobs(opened)
        everyone = find_members(opened, run_id, display)
        members = [each for each in everyone if each.run.state in LIVING]
        if not members:
            raise UsageError("the run has ended: none of its ranks is left", remedy="list the runs: orch ps --all")
        nodes = [each.node for each in members]
        return cls(opened, members[0].run.run_id, nodes, expected_ranks(everyone), native, display)

    @property
    def name(self) -> str:
        """The name of py-spy on nodes, which changes with its contents."""
        return f"py-spy-{self.tool.sha[:12]}" if self.tool is not None else ""

    def look(self) -> Stacks:
        """Return what the ranks are doing now. Raises HostErrors if no node answers."""
        outcomes = on_all(self.nodes, self._ask, limit=len(self.nodes))
        here: dict[str, StacksHere] = {}
        errors: list[OrchError] = []
        for node, outcome in zip(self.nodes, outcomes, strict=True):
            if isinstance(outcome, OrchError):
                errors.append(outcome)
            elif outcome.error is not None:
                errors.append(PreflightError(outcome.error, remedy=INSTALL, host=node.name))
            else:
                here[node.name] = outcome
        if not here:
            raise HostErrors(errors, len(self.nodes))
        silent = {node.name for node in self.nodes} - here.keys()
        expected = {rank: node for rank, node in self.expected.items() if node not in silent}
        folded = groups({name: each.ranks for name, each in here.items()}, expected)
        return Stacks(self.run_id, folded, here, errors)

    def _ask(self, node: Node) -> StacksHere:
        host: Host = self.hosts[node.name]
        request = AskStacks(
            run_id=self.run_id,
            workdir=host.workdir,
            tool=f"{FOLDER}/{self.name}" if self.tool is not None else None,
            sha=None if self.tool is None else self.tool.sha,
            machine=None if self.tool is None else self.tool.machine,
            python=host.python,
            native=self.native,
        )
        return node.ask(request, StacksHere.from_wire, LIMIT, scale=8)


def refuse_jobs(opened: OpenCluster) -> None:
    """Raise UsageError if the runs of this inventory are jobs."""
    if opened.inventory.scheduler is not None:
        what = "orch stacks asks the nodes of a run themselves, and those of a Slurm job are not dialled"
        raise UsageError(what, remedy=ON_A_NODE)


def expected_ranks(members: Sequence[Member]) -> dict[int, str]:
    """Return the node of each rank, where ranks follow from the plan: torchrun's c10d assigns them itself."""
    found = {}
    for member in members:
        if member.run.first_rank is not None:
            for local_rank in range(member.run.nproc):
                found[member.run.first_rank + local_rank] = member.node.name
    return found
