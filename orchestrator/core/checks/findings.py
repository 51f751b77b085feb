"""What a check looks at and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.protocol.facts import Parts, System
from orchestrator.protocol.probe import Probe

# The worst first.
SEVERITIES = ("fail", "warn", "skipped", "ok")

UNKNOWN = System(os="", kernel="", machine="", libc="", firewall=None, boot_id="", root=False)


@dataclass(frozen=True)
class EndLeftovers:
    """End the processes that a run left over on the node."""

    run_id: str


@dataclass(frozen=True)
class MakeFolder:
    """Make a folder on the node."""

    path: str


@dataclass(frozen=True)
class SetKey:
    """Change one value of the node in the hosts file."""

    key: str
    value: str


Mend = EndLeftovers | MakeFolder | SetKey


@dataclass(frozen=True)
class Finding:
    """Something that was seen. ``nodes`` are one host, a pair (from, to), or all that it is about.

    ``severity`` is ``fail`` (a run would hang or fail), ``warn``, or ``skipped`` (it could not be looked at).
    ``mend``: what ``orch doctor --fix`` can do about it, if anything.
    """

    nodes: tuple[str, ...]
    severity: str
    what: str
    remedy: str
    check: str = ""
    pair: bool = False
    mend: Mend | None = None

    @property
    def where(self) -> str:
        """``gpu1``, ``gpu1 -> gpu2``."""
        return (" -> " if self.pair else ", ").join(self.nodes)

    def as_fields(self) -> dict[str, object]:
        """What a report says of it; how it is mended is for ``orch doctor --fix`` alone."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "mend"}

    def __str__(self) -> str:
        """One line."""
        return f"{self.where}: {self.what}" + (f" → {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Examined:
    """Everything that is known of a cluster before a run.

    ``probes``: what node a found out about node b, as ``protocol/probe.py`` has it; ``pings`` how each host
    answered this machine's. ``addresses`` are those that a plan would use; ``port`` is the master port where it is
    fixed; ``own_run`` a run that is to be started again; ``requirements`` the lines of the project's
    requirements.txt; ``logins`` how each node's SSH logins to others ended, where they were tried.
    ``one_machine``: the hosts are a sandbox.
    """

    hosts: Sequence[Host]
    facts: Mapping[str, Facts]
    probes: Mapping[str, Mapping[str, Probe]] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    pings: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    port: int | None = None
    backend: str = "auto"
    own_run: str | None = None
    requirements: tuple[str, ...] = ()
    logins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    one_machine: bool = False

    def parts(self, node: str) -> Parts:
        """Further facts of a node; those that were not asked for, or gave no answer, are None."""
        return self.facts[node].parts

    def system(self, node: str) -> System:
        """The node's system, for the spelling of remedies; empty if unknown."""
        return self.parts(node).system or UNKNOWN


@dataclass(frozen=True)
class Check:
    """One thing to look at. ``why``: what breaks without it. ``look`` yields findings, none where all is well.

    ``quick`` ones are part of ``orch run``.
    """

    name: str
    title: str
    why: str
    look: Callable[[Examined], Iterator[Finding]]
    quick: bool = True

    def findings(self, examined: Examined) -> list[Finding]:
        """What it finds, each under its name."""
        return [replace(found, check=self.name) for found in self.look(examined)]


def fail(node: str, what: str, remedy: str, mend: Mend | None = None) -> Finding:
    """A run would hang or fail because of this node."""
    return Finding((node,), "fail", what, remedy, mend=mend)


def warn(node: str, what: str, remedy: str, mend: Mend | None = None) -> Finding:
    """A run may suffer from this node."""
    return Finding((node,), "warn", what, remedy, mend=mend)


def usual(values: Mapping[str, Any]) -> Any:
    """The value that most have; of equals, the first."""
    known = list(values.values())
    return max(known, key=known.count) if known else None


def merged(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Equal findings of several nodes as one."""
    alike: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        key = finding.where if finding.pair else ""
        alike.setdefault((finding.severity, finding.what + key, finding.remedy), []).append(finding)
    return tuple(
        group[0]
        if len(group) == 1
        else Finding(
            tuple(name for finding in group for name in finding.nodes),
            group[0].severity,
            group[0].what,
            group[0].remedy,
            group[0].check,
        )
        for group in alike.values()
    )
