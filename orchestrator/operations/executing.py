"""Runs one command on every host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import OrchError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.remote.fanout import on_all
from orchestrator.remote.login import command_line
from orchestrator.remote.ssh.connection import Connection


@dataclass(frozen=True)
class CommandResult:
    """The output and the exit code of a command on one host."""

    exit_code: int
    out: bytes
    err: bytes


def execute(opened: OpenCluster, argv: Sequence[str]) -> tuple[dict[str, CommandResult], list[OrchError]]:
    """Run ``argv`` on every host. Return the results by host, and the errors of the other hosts.

    Each word reaches the command unchanged: no shell of the host expands it.
    """
    line = command_line(argv)

    def ask(link: Connection) -> CommandResult:
        link.open()
        channel = link.command(line)
        channel.end_input()
        out, err = channel.output()
        return CommandResult(channel.exit_code(None), out, err)

    outcomes = on_all(opened.links, ask, limit=opened.fanout)
    answers, errors = {}, []
    for host, outcome in zip(opened.hosts, outcomes, strict=True):
        if isinstance(outcome, OrchError):
            errors.append(outcome)
        else:
            answers[host.name] = outcome
    return answers, errors
