"""``orch exec``: one command on every host, equal output shown once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.inventory.target import Target
from orchestrator.errors import OrchError
from orchestrator.operations.cluster import open_cluster
from orchestrator.remote.fanout import on_all
from orchestrator.remote.login import command_line
from orchestrator.remote.ssh import Connection
from orchestrator.ui.answers import show_answer
from orchestrator.ui.display import Display


@dataclass(frozen=True)
class Answer:
    """What a command printed on a host, and how it ended."""

    exit_code: int
    out: bytes
    err: bytes


def execute(target: Target, argv: Sequence[str], display: Display) -> int:
    """Run ``argv`` on every host; returns 0, 1 if it failed somewhere, 4 if a host could not be reached.

    Each word reaches the command as it is: no shell of the host's expands it.
    """
    line = command_line(argv)

    def ask(link: Connection) -> Answer:
        link.open()
        channel = link.command(line)
        channel.end_input()
        out, err = channel.output()
        return Answer(channel.exit_code(None), out, err)

    with open_cluster(target) as opened:
        outcomes = on_all(opened.links, ask, limit=opened.fanout)
    answers: dict[Answer, list[str]] = {}
    errors = []
    for host, outcome in zip(opened.hosts, outcomes, strict=True):
        if isinstance(outcome, OrchError):
            errors.append(outcome)
        else:
            answers.setdefault(outcome, []).append(host.name)
    for answer, names in answers.items():
        show_answer(display, names, answer.exit_code, answer.out, answer.err)
    for error in errors:
        display.error(error)
    if errors:
        return errors[0].exit_code
    if any(answer.exit_code == 127 for answer in answers) and len(argv) == 1 and " " in argv[0]:
        display.note(f"hint: for a shell line, use: orch exec -- sh -c {shlex.quote(argv[0])}")
    return 1 if any(answer.exit_code for answer in answers) else 0
