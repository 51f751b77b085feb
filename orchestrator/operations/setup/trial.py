"""Try hosts that are in no hosts file yet: name, port, host key, login, python3, and what is installed there."""

from __future__ import annotations

import getpass
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.errors import ConnectDropped, OrchError
from orchestrator.operations.survey import facts_request
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.remote.probing import ask_facts, hang_up
from orchestrator.remote.ssh.config import config_files, read_config
from orchestrator.remote.ssh.connection import Connection, connections
from orchestrator.remote.ssh.translation import NO_ANSWER

PARTS = ("system", "memory", "disks", "gpus", "interfaces", "interpreters")
# OpenSSH's sshd drops connections at random beyond this number of unauthenticated ones (MaxStartups 10:30:100).
MOST_STARTUPS = 10


@dataclass(frozen=True)
class Trial:
    """The result of trying a host: its facts, or the error that it ended with."""

    host: Host
    facts: Facts | None = None
    error: OrchError | None = None


def try_hosts(
    hosts: Sequence[Host], accepted: Mapping[str, str], settings: Settings, fanout: int
) -> dict[str, Trial]:
    """Return the trial of each host by name, all made in parallel.

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


def told_apart(trials: Mapping[str, Trial]) -> dict[str, Trial]:
    """Return the trials with a likelier remedy for hosts that closed the connection at once.

    A busy server is a likely cause only where several hosts have one address, or many were tried in parallel.
    """
    dropped = [each.host for each in trials.values() if isinstance(each.error, ConnectDropped)]
    at = Counter(host.address for host in dropped)
    found = dict(trials)
    for host in dropped:
        error = trials[host.name].error
        if error is not None and at[host.address] == 1 and len(dropped) <= MOST_STARTUPS:
            found[host.name] = replace(
                trials[host.name], error=ConnectDropped(error.message, remedy=NO_ANSWER, host=error.host)
            )
    return found


def usual_user() -> str:
    """Return the user to log in as where neither the host nor an alias says one. Raises UsageError."""
    config = read_config(config_files(Path.home()))
    return str(config.lookup("an-unlisted-host").get("user") or getpass.getuser())
