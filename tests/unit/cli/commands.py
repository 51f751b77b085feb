"""Parse command lines as ``orch run`` does, in process and without a network."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click

from orchestrator.cli.launching import SORTED, asked, naming_as_typed
from orchestrator.cli.running import run
from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.choosing import chosen
from orchestrator.core.inventory.hosts import Host, Inventory
from orchestrator.core.inventory.target import Target
from orchestrator.core.launch.plan import LaunchPlan, assumed_facts, plan
from orchestrator.local.hosts_file import read_inventory
from orchestrator.operations.run.options import RunOptions
from orchestrator.protocol.facts import Memory, Parts

CORES = 16


@dataclass(frozen=True)
class Parsed:
    """What a command line came to."""

    target: Target
    options: RunOptions
    notes: list[str]
    typed: Mapping[str, str]

    @property
    def inventory(self) -> Inventory:
        return read_inventory(self.target.hosts_file)

    @property
    def plan(self) -> LaunchPlan:
        """The plan for hosts that have the GPUs of their inventory and 16 cores each."""
        with naming_as_typed(self.typed):
            return self._plan()

    def _plan(self) -> LaunchPlan:
        hosts = [replace(h, fabric_address=h.address) for h in chosen(self.inventory, self.target)]
        facts = {host.name: known(host) for host in hosts}
        return plan(hosts, self.inventory.rendezvous, self.options.spec, facts, "RUN")


def known(host: Host) -> Facts:
    memory = Memory(total=1, available=1, swap=0, limit=None, cores=CORES, load=0.0)
    return replace(assumed_facts(host), gpus=host.gpus or 0, parts=Parts(memory=memory))


def parsed(words: Sequence[str], command: click.Command = run) -> Parsed:
    """Parse the words after ``orch run``. Raises UsageError."""
    with command.make_context(command.name, list(words)) as context:
        options: dict[str, Any] = dict(context.params)
        typed = context.meta[SORTED].typed
        with naming_as_typed(typed):
            return Parsed(*asked(options), typed)


def summary(found: Parsed) -> str:
    """Return a plan's hosts, ranks and whatever differs from a plain run, on one line."""
    made, spec = found.plan, found.options.spec
    ranks = ", ".join(f"{node.node} {node.nproc_per_node}" for node in made.nodes)
    told = [f"ranks: {ranks}", f"runs `{' '.join([spec.workload.name, *spec.args])}`"]
    if spec.launcher != "torchrun":
        told.append(f"{spec.launcher}{'' if spec.mixed_precision == 'no' else f', {spec.mixed_precision}'}")
    if spec.backend != "auto":
        told.append(f"backend {spec.backend}")
    if spec.port:
        told.append(f"port {spec.port}")
    if made.rdzv_backend != "static":
        told.append(
            f"c10d, {made.nnodes} {'node' if made.nnodes == '1' else 'nodes'}, endpoint {made.rdzv_endpoint}, id {made.rdzv_id}"
        )
    if spec.rdzv_conf:
        told.append(" ".join(f"{name}={value}" for name, value in spec.rdzv_conf.items()))
    restarts = spec.restarts or found.options.max_restarts
    if restarts:
        told.append(f"restarts {restarts}")
    apart = {name: value for node in made.nodes for name, value in node.env.items()}
    for name in apart:
        values = [(node.node, node.env[name]) for node in made.nodes if name in node.env]
        same = len(values) == len(made.nodes) and len({value for _, value in values}) == 1
        told.append(f"{name}={values[0][1]}" if same else ", ".join(f"{node} {name}={v}" for node, v in values))
    told += [f"{name}={value} of this machine" for name, value in spec.local.items()]
    told += [f"note: {note}" for note in dict.fromkeys([*found.notes, *made.notes]) if not note.startswith(UNTOLD)]
    return "; ".join(told)


# Notes that any plan without the nodes' facts has, or any c10d run.
UNTOLD = ("c10d: torchrun", *(f"worker-{i}: no interface" for i in (1, 2, 3)))


def refusal(words: Sequence[str]) -> str:
    """Return the one line that ``orch run WORDS`` ends with."""
    from orchestrator.errors import OrchError

    try:
        found = parsed(words)
        _ = found.plan
    except OrchError as error:
        return str(error)
    with contextlib.suppress(Exception):
        return f"not refused: {summary(found)}"
    return "not refused"
