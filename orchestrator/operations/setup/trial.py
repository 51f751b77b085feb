"""Try hosts that are in no hosts file yet: name, port, host key, login, python3, and what is installed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.errors import OrchError
from orchestrator.operations.survey import facts_request
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.remote.probing import ask_facts, hang_up
from orchestrator.remote.ssh.connection import Connection, connections

PARTS = ("system", "memory", "disks", "gpus", "interfaces", "interpreters")


@dataclass(frozen=True)
class Trial:
    """The result of trying a host: its facts, or the error that it ended with."""

    host: Host
    facts: Facts | None = None
    error: OrchError | None = None


def try_hosts(
    hosts: Sequence[Host], accepted: Mapping[str, str], settings: Settings, fanout: int
) -> dict[str, Trial]:
    """Return the trial of each host by name, all made at once.

    ``accepted``: by host, the fingerprint of a key that the user has accepted, and that is recorded if it is seen.
    """
    links = connections([host for host in hosts if host.name not in accepted], settings)
    for host in hosts:
        if host.name in accepted:
            links += connections([host], replace(settings, accept_fingerprint=accepted[host.name]))
    try:
        outcomes = on_all(links, Connection.open, limit=fanout)
        errors = {
            link.host.name: outcome
            for link, outcome in zip(links, outcomes, strict=True)
            if isinstance(outcome, OrchError)
        }
        nodes = [Node(link) for link in links if link.host.name not in errors]
        requests = {host.name: facts_request(host, PARTS).replace(probe=False) for host in hosts}
        answers, silent = ask_facts(nodes, requests, fanout)
        hang_up(answers)
    finally:
        on_all(links, Connection.close)
    errors.update({each.host: each for each in silent if each.host is not None})
    return {
        host.name: Trial(host, error=errors[host.name])
        if host.name in errors
        else Trial(host, facts=answers[host.name].facts)
        for host in hosts
    }
