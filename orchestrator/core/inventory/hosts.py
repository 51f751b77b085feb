"""The hosts of a cluster, and everything else that a hosts file says."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.inventory.hostrange import RangeError, expand
from orchestrator.core.inventory.reading import listed, nearest
from orchestrator.core.inventory.sections.container import Container
from orchestrator.core.inventory.sections.scheduler import Slurm
from orchestrator.core.text.counted import counted
from orchestrator.errors import UsageError


@dataclass(frozen=True)
class Host:
    """One machine. None leaves the value to ``~/.ssh/config``, the node or the tools' defaults.

    ``jump`` lists the outermost hop first; ``host_key`` is ``type base64`` or ``SHA256:fingerprint``.
    ``environment`` is the file that lists the packages orch installs, with ``python`` as the base interpreter.
    ``container``: the container that the ranks run in, ``python`` being an interpreter in its image.
    ``passed`` holds the control machine's variables that ``pass_env`` names; ``not_set`` the names that are not
    set there.
    """

    name: str
    address: str
    user: str | None = None
    port: int | None = None
    identity_file: str | None = None
    jump: tuple[str, ...] = ()
    host_key: str | None = None
    fabric_address: str | None = None
    interface: str | None = None
    gpus: int | None = None
    nproc: int | None = None
    workdir: str = "~/orch-work"
    python: str | None = None
    environment: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    passed: Mapping[str, str] = field(default_factory=dict, repr=False)
    not_set: tuple[str, ...] = ()
    container: Container | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The variables that the inventory gives the ranks; ``env`` overrides ``pass_env``."""
        return {**self.passed, **self.env}


@dataclass(frozen=True)
class Rendezvous:
    """How the torchrun processes find each other; None means that orch chooses."""

    backend: str = "static"
    port: int | None = None
    interface: str | None = None
    id: str | None = None
    endpoint: str | None = None


@dataclass(frozen=True)
class Outputs:
    """What is fetched from a run's working folders: at most ``max_bytes`` per node, by gitignore-style patterns.

    ``max_log``: most bytes of a rank's stdout or stderr on a node's disk; beyond that, the middle is dropped.
    """

    max_bytes: int = 1 << 30
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ("__pycache__/", "*.pyc", ".git/")
    max_log: int = 1 << 30


@dataclass(frozen=True)
class DataSource:
    """A file or folder on this machine and its path on a node; None stands for ``<workdir>/data/<name>``."""

    path: str
    to: str | None


@dataclass(frozen=True)
class Inventory:
    """A cluster. ``hosts`` is in node_rank order, the master first, and includes the spares.

    ``grace``: seconds that ranks have to end when they are stopped; None stands for the defaults. ``foreign``: the
    hosts come from another tool's list; ``notes`` name what was left out of it, and ``places`` where hosts stand.
    ``scheduler``: gives a run its nodes; then the only host is the one where jobs are submitted.
    """

    cluster: str
    hosts: tuple[Host, ...]
    spares: tuple[str, ...]
    rendezvous: Rendezvous
    outputs: Outputs
    sandbox: bool
    source: str
    data: tuple[DataSource, ...] = ()
    grace: float | None = None
    foreign: bool = False
    notes: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    scheduler: Slurm | None = None

    @property
    def master(self) -> Host:
        """The host of node_rank 0."""
        return self.hosts[0]


def select(inventory: Inventory, expression: str | None) -> tuple[Host, ...]:
    """Return the hosts that ``--nodes`` selects, in inventory order.

    ``expression`` is a count, or names, globs and ranges separated by commas; None selects all but the spares.
    Raises UsageError for a count that is out of range or a pattern that matches no host.
    """
    regular = tuple(host for host in inventory.hosts if host.name not in inventory.spares)
    if expression is None:
        return regular
    if expression.strip().isascii() and expression.strip().isdigit() and len(expression.strip()) < 6:
        count = int(expression)
        if not 1 <= count <= len(regular):
            raise UsageError(
                f"--nodes {count}: {inventory.source} has {counted(len(regular), 'host')} besides spares"
            )
        return regular[:count]
    names = [host.name for host in inventory.hosts]
    chosen: set[str] = set()
    for pattern in re.split(r",(?![^\[]*\])", expression):
        chosen.update(_matching(pattern.strip(), names))
    return tuple(host for host in inventory.hosts if host.name in chosen)


def _matching(pattern: str, names: list[str]) -> list[str]:
    try:
        wanted = expand(pattern)
    except RangeError as error:
        raise UsageError(f"--nodes {pattern!r}: {error}") from None
    for each in wanted:
        if not fnmatch.filter(names, each):
            raise UsageError(f"--nodes {each!r} matches no host", remedy=nearest(each, names) or listed(names))
    return [name for name in names if any(fnmatch.fnmatchcase(name, each) for each in wanted)]
