"""Every error shown to a user, and the exit code of the process that it ends.

::

    OrchError                       70  (a bug in orch, unless a subclass says otherwise)
    ├── UsageError                   2  the command line asks for something impossible
    ├── InventoryError               2  hosts.yaml is wrong; lists every mistake at once
    ├── PreflightError               3  a node is reachable but cannot run this
    │   ├── NodeBusy                 3  another run holds the node
    │   └── NodeProgramError         3  python3 is missing on the node, or the node program failed there
    ├── NodeUnreachable              4  no usable SSH connection
    │   ├── NameNotResolved
    │   ├── ConnectTimeout
    │   ├── ConnectRefused
    │   │   └── ConnectDropped          the server accepted the connection, and closed it without a word
    │   ├── HostKeyUnknown
    │   ├── HostKeyChanged
    │   ├── AuthenticationFailed
    │   └── ConnectionLost              an established connection broke
    │       └── ConnectionSilent        nothing arrived over it for too long
    ├── SyncError                    5  code or outputs did not arrive, or not intact
    ├── CannotRecord                 6  this machine cannot record what a run does
    ├── ThenFailed                   7  the command of --then failed, or was not run
    ├── WorkloadFailed               1  a rank failed
    ├── Interrupted                130  the user pressed Ctrl-C
    └── HostErrors                      errors of several hosts; exit code of the first

A ``remedy`` tells what the reader can do now. ``Display.error`` in ``ui/display.py`` prints errors.
"""

from __future__ import annotations

from collections.abc import Sequence

# What each exit code of orch means.
EXIT_CODES = {
    0: "success",
    1: "the workload failed",
    2: "usage or inventory error",
    3: "the checks before the run failed",
    4: "a node could not be reached, or was lost",
    5: "the sync failed, or the run succeeded and its outputs could not be fetched",
    6: "this machine has no room to record the run; the run goes on",
    7: "the run succeeded; the command of --then failed, or was not run because outputs are missing here",
    70: "a bug in orch",
    130: "interrupted",
    141: "the reader of the output has gone, such as head; a run goes on",
}

# The exit code when nobody reads the output any more, as after ``orch ps | head -1``: shells report the same for
# a program that SIGPIPE ends.
CLOSED_PIPE = 141


class OrchError(Exception):
    """An error with a ``message``, which states what happened, and a ``remedy``, which states what to do.

    ``host`` is the inventory name of the host concerned, if any.
    """

    exit_code = 70

    def __init__(self, message: str, *, remedy: str | None = None, host: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.host = host

    def __str__(self) -> str:
        """Return host, message and remedy in one line."""
        where = f"{self.host}: " if self.host else ""
        return f"{where}{self.message}" + (f" → {self.remedy}" if self.remedy else "")


class UsageError(OrchError):
    """The command line asks for something impossible."""

    exit_code = 2


class InventoryError(OrchError):
    """``hosts.yaml`` is wrong. ``problems``: one line per mistake, each with its key path.

    ``located``: each problem begins with its own file, and with its line if it has one.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, source: str = "hosts.yaml", located: bool = False) -> None:
        self.problems = tuple(problems)
        self.source = source
        self.located = located
        count = len(self.problems)
        super().__init__(f"{source}: {count} mistake{'s' if count != 1 else ''}")

    def __str__(self) -> str:
        """Return one line per mistake, each with the file's name."""
        return "\n".join(problem if self.located else f"{self.source}: {problem}" for problem in self.problems)


class PreflightError(OrchError):
    """A node answers, but a run cannot start there."""

    exit_code = 3


class NodeBusy(PreflightError):
    """Another run holds the node's lock."""


class NodeProgramError(PreflightError):
    """The node program could not start or failed on a node."""


class NodeUnreachable(OrchError):
    """No usable SSH connection to a node."""

    exit_code = 4


class NameNotResolved(NodeUnreachable):
    """The address is a name that cannot be resolved."""


class ConnectTimeout(NodeUnreachable):
    """Nothing answered within the connection timeout."""


class ConnectRefused(NodeUnreachable):
    """Nothing listens on the port, or the network reports no route to the address."""


class ConnectDropped(ConnectRefused):
    """The server closed the connection before its SSH banner."""


class HostKeyUnknown(NodeUnreachable):
    """The host's key is in no known_hosts file and not pinned. ``fingerprint`` is that of the key it presented."""

    def __init__(
        self, message: str, *, remedy: str | None = None, host: str | None = None, fingerprint: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, host=host)
        self.fingerprint = fingerprint


class HostKeyChanged(NodeUnreachable):
    """The host presents a key other than the recorded one."""


class AuthenticationFailed(NodeUnreachable):
    """The host accepted none of the keys offered, or not the password.

    ``server``: the one that refused, ``user@host:port``, which may be a jump host. ``takes_passwords``: whether it
    said that it accepts passwords.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        host: str | None = None,
        server: str = "",
        takes_passwords: bool = False,
    ) -> None:
        super().__init__(message, remedy=remedy, host=host)
        self.server = server
        self.takes_passwords = takes_passwords


class ConnectionLost(NodeUnreachable):
    """An established connection broke; what the node has done since is unknown."""


class ConnectionSilent(ConnectionLost):
    """Nothing has arrived over a connection for longer than its time limit."""


class SyncError(OrchError):
    """Code or outputs did not arrive, or did not arrive intact."""

    exit_code = 5


class CannotRecord(OrchError):
    """This machine cannot write to the run's folder; the run goes on."""

    exit_code = 6


class ThenFailed(OrchError):
    """The command that follows a run failed, or was not run because outputs of the run are missing here."""

    exit_code = 7


class WorkloadFailed(OrchError):
    """The run ended because a rank failed."""

    exit_code = 1


class Interrupted(OrchError):
    """The user asked for the command to end."""

    exit_code = 130


class HostErrors(OrchError):
    """Errors of several hosts, out of ``hosts`` in all. ``errors`` is never empty."""

    def __init__(self, errors: Sequence[OrchError], hosts: int) -> None:
        self.errors = tuple(errors)
        self.hosts = hosts
        # The first error decides the exit code, so each instance has its own.
        self.exit_code = self.errors[0].exit_code
        super().__init__(f"{len(self.errors)} of {hosts} hosts failed")

    def __str__(self) -> str:
        """Return one line for each group of hosts with equal errors, and how many hosts have none."""
        alike: dict[str, list[str]] = {}
        for error in self.errors:
            text = f"{error.message}" + (f" → {error.remedy}" if error.remedy else "")
            alike.setdefault(text, []).append(error.host or "?")
        return "\n".join([*(f"{', '.join(hosts)}: {text}" for text, hosts in alike.items()), *self.others])

    @property
    def others(self) -> tuple[str, ...]:
        """A line that says how many hosts have no error, if any. An error may be of a pair, ``a -> b``."""
        bad = {name for error in self.errors for name in (error.host or "?").split(" -> ")}
        well = self.hosts - len(bad)
        if well <= 0:
            return ()
        return ("the other host is fine" if well == 1 else f"the other {well} of {self.hosts} hosts are fine",)
