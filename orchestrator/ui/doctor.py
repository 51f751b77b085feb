"""Shows the findings of doctor and of the preflight."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from orchestrator.core.checks.findings import Examined, Finding, merged
from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.text.alike import of_errors
from orchestrator.core.text.counted import counted
from orchestrator.core.text.secret import masked
from orchestrator.errors import OrchError
from orchestrator.ui.console import Screen, fitted
from orchestrator.ui.display import Display


def show_findings(display: Display, findings: Sequence[Finding]) -> None:
    """Show the preflight's findings."""
    for finding in findings:
        style = "bold red" if finding.severity == "fail" else "bold yellow"
        said = masked(f"{shown_where(finding)}: {finding.told}")
        display.err.print(Text.assemble((f"{finding.severity}: ", style), said))


def show_examination(
    display: Display, examined: Examined, findings: Sequence[Finding], errors: Sequence[OrchError], seconds: float
) -> None:
    """Show doctor's results on stdout: a line for each group of equal hosts, then findings, worst first."""
    groups: dict[str, list[str]] = {}
    accused = {name for finding in findings for name in finding.nodes}
    for host in examined.hosts:
        state = "see below" if host.name in accused else "ok"
        groups.setdefault(f"{state}  {machine(examined, host.name)}", []).append(host.name)
    out = Screen(no_color=not display.coloured)
    for text, names in groups.items():
        style = "green" if text.startswith("ok") else "yellow"
        out.print(Text.assemble((folded(names), "bold"), ": ", (text, style)))
    for said in of_errors(errors):
        out.print(Text.assemble(("fail: ", "bold red"), masked(str(said))))
    for finding in merged(findings):
        style = {"fail": "bold red", "warn": "bold yellow"}.get(finding.severity, "dim")
        where = shown_where(finding)
        begins = f"{finding.severity}: {where}: "
        line = f"{begins}{masked(finding.told)}"
        shown = fitted(line, out.width) if out.is_terminal and len(begins) < out.width else line
        rest = shown.removeprefix(begins)
        if rest == shown:
            out.print(Text(shown))
        else:
            out.print(Text.assemble((f"{finding.severity}: ", style), (where, "bold"), f": {rest}"))
    failed = len(errors) + sum(1 for finding in findings if finding.severity == "fail")
    warned = sum(1 for finding in findings if finding.severity == "warn")
    pairs = sum(len(others) for others in examined.probes.values())
    counts = [(failed, "failure"), (warned, "warning")]
    told = ", ".join(counted(count, word) for count, word in counts if count)
    seen = f"{counted(len(examined.hosts) + len(errors), 'host')}, {counted(pairs, 'pair')}"
    out.print(f"{seen}, {seconds:.1f} s: {told or 'all is well'}")


def shown_where(finding: Finding) -> str:
    """Return the hosts that a finding is about, in short form, or the pair."""
    return finding.where if finding.pair else folded(finding.nodes)


def machine(examined: Examined, name: str) -> str:
    """Describe a node in a few words."""
    facts, memory = examined.facts[name], examined.parts(name).memory
    system = examined.system(name)
    python = facts.python
    there = [
        f"Python {python.version}" if python.version else "no Python",
        f"torch {python.torch}" if python.torch else "no torch",
    ]
    if not python.version and any(host.name == name and host.environment for host in examined.hosts):
        there = ["its environment is not built yet"]
    words = [
        system.os or facts.system,
        *there,
        counted(memory.cores, "core") if memory is not None else "? cores",
        f"{memory.total / 1e9 if memory is not None else 0:.0f} GB",
    ]
    gpus = examined.parts(name).gpus or ()
    if gpus:
        words.append(f"{len(gpus)} x {gpus[0]['name']}")
    return ", ".join(words)
