"""``orch exec``: run one command on every host, and show equal output once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from orchestrator.core.inventory.target import Target
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.executing import CommandResult, execute
from orchestrator.ui.answers import show_answer
from orchestrator.ui.display import Display


def run_everywhere(target: Target, argv: Sequence[str], display: Display) -> int:
    """Run ``argv`` on every host. Return 0, or 1 if the command failed on a host.

    If hosts gave no answer, return the code of the first error, such as 4 for an unreachable host.
    """
    with open_cluster(target) as opened:
        answers, errors = execute(opened, argv)
    alike: dict[CommandResult, list[str]] = {}
    for name, answer in answers.items():
        alike.setdefault(answer, []).append(name)
    for answer, names in alike.items():
        show_answer(display, names, answer.exit_code, answer.out, answer.err)
    display.errors(errors)
    if errors:
        return errors[0].exit_code
    if any(answer.exit_code == 127 for answer in alike) and len(argv) == 1 and " " in argv[0]:
        display.note(f"hint: to run a shell command line: orch exec -- sh -c {shlex.quote(argv[0])}")
    return 1 if any(answer.exit_code for answer in alike) else 0
