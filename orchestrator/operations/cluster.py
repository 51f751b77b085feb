"""The first step of every verb: read the inventory, choose hosts, and prepare a connection to each."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.core.inventory.choosing import chosen
from orchestrator.core.inventory.hosts import Host, Inventory
from orchestrator.core.inventory.target import Settings, Target
from orchestrator.core.launch.environment import Environment
from orchestrator.errors import HostErrors, OrchError
from orchestrator.local.hosts_file import environments_of, in_their_environments, read_inventory
from orchestrator.local.images import with_archives
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.slurm.local import LocalConnection
from orchestrator.remote.slurm.login import login_connections
from orchestrator.remote.ssh.connection import Connection, connections
from orchestrator.sandbox.cluster import Sandbox, sandbox_folder


@dataclass(frozen=True)
class OpenCluster:
    """An inventory, the hosts chosen from it in node_rank order, and their connections.

    ``spares`` are hosts that may replace lost ones, with connections that are not open yet. ``environments`` holds
    the environments that orch builds, by host; ``python`` of such a host is the environment's interpreter.
    ``beside``: the folder of the inventory, which paths in it are relative to. ``target``: what was asked for.
    """

    inventory: Inventory
    hosts: tuple[Host, ...]
    links: tuple[Connection, ...]
    fanout: int
    spares: tuple[tuple[Host, Connection], ...] = ()
    environments: Mapping[str, Environment] = field(default_factory=dict)
    beside: Path = Path()
    target: Target = field(default_factory=lambda: Target(Path("hosts.yaml")))

    @property
    def all_hosts(self) -> tuple[Host, ...]:
        """The chosen hosts, then the spares."""
        return (*self.hosts, *(host for host, _ in self.spares))

    def link(self, name: str) -> Connection:
        """Return the connection of one of ``all_hosts``."""
        pairs = (*zip(self.hosts, self.links, strict=True), *self.spares)
        return next(link for host, link in pairs if host.name == name)

    def connect(self) -> tuple[Node, ...]:
        """Open every connection, and return the nodes. Raises HostErrors for the hosts that cannot be reached."""
        outcomes = on_all(self.links, lambda link: link.open(), limit=self.fanout)
        if errors := failures(outcomes):
            raise HostErrors(errors, len(self.links))
        return tuple(Node(link) for link in self.links)

    def connect_some(self) -> tuple[tuple[Node, ...], list[OrchError]]:
        """Open every connection. Return the nodes that can be reached, and an error for each other host."""
        outcomes = on_all(self.links, lambda link: link.open(), limit=self.fanout)
        nodes = [
            Node(link)
            for link, outcome in zip(self.links, outcomes, strict=True)
            if not isinstance(outcome, OrchError)
        ]
        return tuple(nodes), failures(outcomes)


@contextmanager
def open_cluster(target: Target, *, spares_too: bool = False, interpreters: bool = False) -> Iterator[OpenCluster]:
    """Yield the target's hosts, with connections not yet open. Keep the sandbox up meanwhile if it has the hosts.

    ``spares_too``: unless the target names hosts, the spares belong to it. ``interpreters``: the verb needs the
    hosts' interpreters, so the files that describe environments are read.
    """
    inventory = read_inventory(target.hosts_file)
    for note in inventory.notes:
        target.note(note)
    everyone = spares_too and target.nodes is None
    # With a scheduler, --nodes tells how many nodes a job gets, and the only host is the login node.
    hosts = inventory.hosts if everyone or inventory.scheduler else chosen(inventory, target)
    taken = {host.name for host in hosts}
    spares = tuple(h for h in inventory.hosts if h.name in inventory.spares and h.name not in taken)
    sandbox = None
    links: Sequence[Connection] = ()
    try:
        if inventory.sandbox:
            sandbox = sandbox_of(target.hosts_file, inventory)
            hosts, spares = _sandboxed(hosts, sandbox), _sandboxed(spares, sandbox)
        environments = environments_of([*hosts, *spares], target.hosts_file.parent) if interpreters else {}
        hosts, spares = (in_their_environments(each, environments) for each in (hosts, spares))
        if interpreters:
            hosts, spares = (with_archives(each, target.hosts_file.parent) for each in (hosts, spares))
        links = _links([*hosts, *spares], inventory, target.settings)
        mine, theirs = links[: len(hosts)], links[len(hosts) :]
        pairs = tuple(zip(spares, theirs, strict=True))
        folder = target.hosts_file.parent
        yield OpenCluster(inventory, hosts, tuple(mine), target.fanout, pairs, environments, folder, target)
    finally:
        on_all(links, lambda link: link.close())
        if sandbox is not None:
            sandbox.release()


def _links(hosts: Sequence[Host], inventory: Inventory, settings: Settings) -> Sequence[Connection]:
    """Return a connection to each host, not yet open."""
    if inventory.scheduler is None:
        return connections(hosts, settings)
    if inventory.scheduler.login is None:
        return [LocalConnection(host, settings) for host in hosts]
    return login_connections(hosts, settings)


def sandbox_of(hosts_file: Path, inventory: Inventory) -> Sandbox:
    """Return the embedded cluster of a hosts file; that of ``--hosts sandbox`` is the same in every folder."""
    known = hosts_file if hosts_file.exists() else Path.home() / hosts_file
    folder = sandbox_folder(known, inventory.cluster, Path.home())
    return Sandbox(folder, [host.name for host in inventory.hosts])


def _sandboxed(hosts: Sequence[Host], sandbox: Sandbox) -> tuple[Host, ...]:
    """Start the embedded cluster, and return its hosts with the addresses, users and keys that it gave them.

    Without ``python:`` in the inventory, a host runs the interpreter that runs orch.
    """
    served = {each.name: each for each in sandbox.start(keep=False)}
    return tuple(
        replace(
            host,
            address=served[host.name].address,
            port=served[host.name].port,
            user=served[host.name].user,
            identity_file=served[host.name].identity_file,
            host_key=served[host.name].host_key,
            python=host.python or (None if host.container else sys.executable),
        )
        for host in hosts
    )
