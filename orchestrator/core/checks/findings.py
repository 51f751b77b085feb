"""The input of a check, ``Examined``, and its output, ``Finding``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.text.alike import Said, alike
from orchestrator.protocol.facts import Parts, System
from orchestrator.protocol.probe import Probe

# The most severe first.
SEVERITIES = ("fail", "warn", "skipped", "ok")

UNKNOWN_SYSTEM = System(os="", kernel="", machine="", libc="", firewall=None, boot_id="", root=False)


@dataclass(frozen=True)
class EndLeftovers:
    """End the leftover processes of a run on the node."""

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
    """A result of a check. ``nodes`` holds one host, a pair (from, to) if ``pair``, or all hosts concerned.

    ``severity`` is ``fail`` (a run would hang or fail), ``warn``, or ``skipped`` (the check was not possible).
    ``mend`` is the change with which ``orch doctor --fix`` can resolve the finding, if there is one.
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
        """The hosts concerned, as text: ``gpu1``, ``gpu1, gpu2``, or ``gpu1 -> gpu2`` for a pair."""
        return (" -> " if self.pair else ", ").join(self.nodes)

    @property
    def told(self) -> str:
        """The finding and its remedy, without the hosts."""
        return self.what + (f" → {self.remedy}" if self.remedy else "")

    def as_fields(self) -> dict[str, object]:
        """Return the fields for a report: all but ``mend``, which only ``orch doctor --fix`` uses."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "mend"}

    def __str__(self) -> str:
        """Return the finding and its remedy as one line."""
        return f"{self.where}: {self.told}"


@dataclass(frozen=True)
class Examined:
    """Everything that is known of a cluster before a run.

    ``probes[a][b]`` is what node a found out about node b; ``pings`` holds each host's answers to pings from this
    machine (``loss`` from 0 to 1). ``addresses`` are those that a plan would use; ``port`` is the master port, if
    fixed. ``own_run`` is the run that is about to be restarted, if any. ``requirements`` are the lines of the
    project's requirements.txt. ``logins[a][b]`` tells how node a's SSH login to node b ended, if it was tried.
    ``one_machine``: the hosts are those of a sandbox.
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
        """Return further facts of the node; those that were not requested or gave no answer are None."""
        return self.facts[node].parts

    def system(self, node: str) -> System:
        """Return the node's operating system, on which remedies depend, or ``UNKNOWN_SYSTEM``."""
        return self.parts(node).system or UNKNOWN_SYSTEM


@dataclass(frozen=True)
class Check:
    """An entry of the catalogue. ``why`` tells what breaks if the check fails; ``look`` yields the findings.

    ``quick`` checks run before every ``orch run``, too.
    """

    name: str
    title: str
    why: str
    look: Callable[[Examined], Iterator[Finding]]
    quick: bool = True

    def findings(self, examined: Examined) -> list[Finding]:
        """Run the check and return its findings, labelled with its name."""
        return [replace(found, check=self.name) for found in self.look(examined)]


def fail(node: str, what: str, remedy: str, mend: Mend | None = None) -> Finding:
    """Return the finding that a run would hang or fail because of this node."""
    return Finding((node,), "fail", what, remedy, mend=mend)


def warn(node: str, what: str, remedy: str, mend: Mend | None = None) -> Finding:
    """Return the finding that a run may suffer from this node."""
    return Finding((node,), "warn", what, remedy, mend=mend)


def most_common(values: Mapping[str, Any]) -> Any:
    """Return the most frequent value, the first of several equally frequent ones; None if there are no values."""
    known = list(values.values())
    return max(known, key=known.count) if known else None


def merged(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Merge findings that differ only in their node; findings of pairs stay separate."""
    kinds: dict[tuple[str, str, tuple[str, ...]], list[Finding]] = {}
    for finding in findings:
        pair = finding.nodes if finding.pair else ()
        kinds.setdefault((finding.severity, finding.check, pair), []).append(finding)
    found: list[Finding] = []
    for (severity, check, pair), group in kinds.items():
        if pair:
            found += group
            continue
        known = {(each.nodes, each.what, each.remedy): each for each in group}
        for said in alike(Said(each.nodes, each.what, each.remedy) for each in group):
            alone = known.get((said.hosts, said.message, said.remedy))
            found.append(alone or Finding(said.hosts, severity, said.message, said.remedy, check))

    def place(one: Finding) -> int:
        """Return the index of the first finding in ``one``."""
        if one in findings:
            return findings.index(one)
        about = (one.severity, one.check, one.nodes[0])
        return [(each.severity, each.check, each.nodes[0]) for each in findings].index(about)

    return tuple(sorted(found, key=place))
