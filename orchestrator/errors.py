"""Every error a user can meet, and the exit code it ends with.

::

    OrchError                       70  (a bug in orch, unless a subclass says otherwise)
    ├── UsageError                   2  the command line asks for something impossible
    ├── InventoryError               2  hosts.yaml is wrong; carries every mistake at once
    ├── PreflightError               3  a node is reachable but cannot run this
    │   ├── NodeBusy                 3  another run holds the node
    │   └── NodeProgramError         3  python3 is missing on the node, or the node program failed there
    ├── NodeUnreachable              4  no usable SSH connection
    │   ├── NameNotResolved
    │   ├── ConnectTimeout
    │   ├── ConnectRefused
    │   ├── HostKeyUnknown
    │   ├── HostKeyChanged
    │   ├── AuthenticationFailed
    │   └── ConnectionLost              the connection was there and broke
    │       └── ConnectionSilent        or nothing has come over it for too long
    ├── SyncError                    5  code did not arrive, or not as it left
    ├── CannotRecord                 6  this machine cannot write down what a run does
    ├── WorkloadFailed               1  a rank failed
    ├── Interrupted                130  the user pressed Ctrl-C
    └── HostErrors                      several hosts' errors at once; ends with the first one's code

Each carries a ``remedy``: what the reader can do now. ``cli.py`` is the only place that prints them.
"""

from __future__ import annotations

from collections.abc import Sequence


class OrchError(Exception):
    """A failure with one line that says what happened, and one that says what to do.

    ``host`` is the inventory name of the host concerned, if there is one.
    """

    exit_code = 70

    def __init__(self, message: str, *, remedy: str | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.host = host

    def __str__(self) -> str:
        """Host, message and remedy in one line."""
        where = f"{self.host}: " if self.host else ""
        return f"{where}{self.message}" + (f" → {self.remedy}" if self.remedy else "")


class UsageError(OrchError):
    """The command line cannot be obeyed as it stands."""

    exit_code = 2


class InventoryError(OrchError):
    """``hosts.yaml`` is wrong. ``problems`` holds one line per mistake, each with its key path."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, source: str = "hosts.yaml") -> None:
        self.problems = tuple(problems)
        self.source = source
        count = len(self.problems)
        super().__init__(f"{source}: {count} mistake{'s' if count != 1 else ''}")

    def __str__(self) -> str:
        """One line per mistake, each with the file's name."""
        return "\n".join(f"{self.source}: {problem}" for problem in self.problems)


class PreflightError(OrchError):
    """A node answers, but a run cannot start there."""

    exit_code = 3


class NodeBusy(PreflightError):
    """Another run holds the node's lock."""


class NodeProgramError(PreflightError):
    """The node program could not run, or broke, on a node."""


class NodeUnreachable(OrchError):
    """No usable SSH connection to a node."""

    exit_code = 4


class NameNotResolved(NodeUnreachable):
    """The address is a name that nothing resolves."""


class ConnectTimeout(NodeUnreachable):
    """Nothing answered within the connection timeout."""


class ConnectRefused(NodeUnreachable):
    """The machine answered that nothing listens there, or that there is no way to it."""


class HostKeyUnknown(NodeUnreachable):
    """The host's key is in no known_hosts file and not pinned. ``fingerprint``: of the key that it showed."""

    def __init__(
        self, message: str, *, remedy: str | None = None, host: str | None = None, fingerprint: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, host=host)
        self.fingerprint = fingerprint


class HostKeyChanged(NodeUnreachable):
    """The host shows another key than the recorded one."""


class AuthenticationFailed(NodeUnreachable):
    """The host accepted none of the keys offered."""


class ConnectionLost(NodeUnreachable):
    """A connection that worked has broken; what the node did since is unknown."""


class ConnectionSilent(ConnectionLost):
    """Nothing has come over a connection for longer than it may."""


class SyncError(OrchError):
    """Code did not reach a node, or did not arrive as it left."""

    exit_code = 5


class CannotRecord(OrchError):
    """This machine's disk takes no more of a run, which goes on without it."""

    exit_code = 6


class WorkloadFailed(OrchError):
    """The run ended because a rank failed."""

    exit_code = 1


class Interrupted(OrchError):
    """The user asked for the end."""

    exit_code = 130


class HostErrors(OrchError):
    """What went wrong on each of several hosts. ``errors`` is never empty."""

    def __init__(self, errors: Sequence[OrchError], hosts: int) -> None:
        self.errors = tuple(errors)
        self.hosts = hosts
        # An instance's own code: the tree above fixes it a class at a time.
        self.exit_code = self.errors[0].exit_code
        super().__init__(f"{len(self.errors)} of {hosts} hosts failed")

    def __str__(self) -> str:
        """One line for all hosts that failed alike, and how many others did well."""
        alike: dict[str, list[str]] = {}
        for error in self.errors:
            text = f"{error.message}" + (f" → {error.remedy}" if error.remedy else "")
            alike.setdefault(text, []).append(error.host or "?")
        lines = [f"{', '.join(hosts)}: {text}" for text, hosts in alike.items()]
        well = self.hosts - len(self.errors)
        return "\n".join([*lines, *([f"the other {well} of {self.hosts} hosts are fine"] if well else [])])
