"""Facts -> findings: what would make a run fail or hang, known before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.facts import Facts, Running
from orchestrator.core.inventory import Host


@dataclass(frozen=True)
class Finding:
    """Something wrong with a node, and what mends it. ``severity`` is ``fail`` or ``warn``."""

    node: str
    severity: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what} → {self.remedy}"


def check(
    hosts: Sequence[Host], facts: Mapping[str, Facts], port: int | None, own_run: str | None = None
) -> tuple[Finding, ...]:
    """Everything that is wrong, in the order of ``hosts``.

    ``port`` is the master port, where it is fixed; ``own_run`` the run that is to be started again: what an
    earlier attempt of it left is ended by its start.
    """
    found: list[Finding] = []
    for host in hosts:
        known = facts[host.name]
        found += _interpreter(host, known)
        if known.running is not None and known.running.run_id != own_run:
            found.append(_busy(host.name, known.running))
        for run_id in set(known.leftovers) - {own_run}:
            what = f"has processes of run {run_id} left over, and no supervisor for them"
            found.append(Finding(host.name, "fail", what, f"end them: orch stop {run_id}"))
    found += _torch_versions(hosts, facts)
    if port is not None and facts[hosts[0].name].free_port is None:
        what = f"master port {port} is in use"
        found.append(Finding(hosts[0].name, "fail", what, "pass another --port, or leave it out"))
    return tuple(found)


def _interpreter(host: Host, known: Facts) -> list[Finding]:
    python = known.python
    if python.error:
        what = f"interpreter {python.path!r}: {python.error}"
        return [Finding(host.name, "fail", what, "set python: for this host to one that exists there")]
    if python.torch is None:
        what = f"{python.path} (Python {python.version}) has no torch"
        return [
            Finding(host.name, "fail", what, f"{python.path} -m pip install torch, or set python: for this host")
        ]
    return []


def _busy(node: str, running: Running) -> Finding:
    what = f"is busy with run {running.run_id} ({running.workload}) of {running.owner}, for {age(running.age)}"
    return Finding(
        node, "fail", what, f"wait, watch it: orch attach {running.run_id}, or end it: orch stop {running.run_id}"
    )


def _torch_versions(hosts: Sequence[Host], facts: Mapping[str, Facts]) -> list[Finding]:
    """Torch checks nothing itself when versions differ (pytorch#24273); the failures look like anything."""
    versions = {host.name: facts[host.name].python.torch for host in hosts}
    known = [version for version in versions.values() if version]
    if len(set(known)) < 2:
        return []
    usual = max(sorted(set(known)), key=known.count)
    return [
        Finding(name, "warn", f"has torch {version}, most have {usual}", f"install torch=={usual} there")
        for name, version in versions.items()
        if version and version != usual
    ]


def age(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
