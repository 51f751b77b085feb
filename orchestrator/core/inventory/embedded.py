"""The words that stand for an embedded cluster in place of a hosts file: ``sandbox`` and ``sandbox:N``."""

from __future__ import annotations

import re

from orchestrator.errors import UsageError

HOSTS = 2
MOST_HOSTS = 64


def embedded_hosts_file(word: str) -> str | None:
    """Return the text of the hosts file that ``word`` stands for, or None if it stands for none.

    ``sandbox`` has two hosts, ``sandbox:N`` has N. Raises UsageError for any other N than 1 to 64.
    """
    name, colon, count = word.partition(":")
    if name != "sandbox":
        return None
    if colon and not (re.fullmatch("[0-9]{1,3}", count) and 1 <= int(count) <= MOST_HOSTS):
        raise UsageError(
            f"--hosts {word}: expected a number of hosts from 1 to {MOST_HOSTS}", remedy="--hosts sandbox:2"
        )
    number = int(count) if colon else HOSTS
    # The hosts share the cores of one machine.
    return (
        f"cluster: sandbox-{number}\nsandbox: true\n"
        f'defaults: {{env: {{OMP_NUM_THREADS: "1"}}}}\nhosts: {{"node[1-{number}]": {{}}}}\n'
    )
