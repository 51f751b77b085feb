"""Doctor's results as a self-contained HTML page with heat maps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from html import escape

from orchestrator.core.checks.findings import Examined, Finding
from orchestrator.core.text.counted import counted
from orchestrator.core.text.secret import masked
from orchestrator.errors import OrchError
from orchestrator.protocol.probe import Probe

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1b1f24; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .25rem .5rem; text-align: left; vertical-align: top; }
.map td { width: 2.4rem; height: 1.5rem; padding: 0 .2rem; text-align: center; font-size: .7rem; color: #111; }
.map th { font-weight: 400; font-size: .7rem; white-space: nowrap; }
.map th.top { writing-mode: vertical-rl; transform: rotate(180deg); }
.map td.none { background: #f1f3f5; } .map td.bad { background: #c92a2a; color: #fff; }
.fail { color: #c92a2a; font-weight: 600; } .warn { color: #b35900; font-weight: 600; }
.note { color: #57606a; }
"""


def as_html(examined: Examined, findings: Sequence[Finding], errors: Sequence[OrchError]) -> str:
    """Return the page: findings, then heat maps of round-trip time and of throughput."""
    names = [host.name for host in examined.hosts]
    rows = [("fail", error.host or "?", error.message, error.remedy or "") for error in errors]
    rows += [(found.severity, found.where, found.what, found.remedy) for found in findings]
    table = "".join(
        f'<tr><td class="{severity}">{severity}</td><td>{escape(where)}</td><td>{escape(what)}</td>'
        f"<td>{escape(remedy)}</td></tr>"
        for severity, where, what, remedy in rows
    )
    heading = "<tr><th></th><th>where</th><th>finding</th><th>remedy</th></tr>"
    found = f"<table>{heading}{table}</table>" if rows else "<p>Nothing is wrong.</p>"
    return masked(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>orch doctor</title>"
        f"<style>{STYLE}</style></head><body><h1>{counted(len(names), 'host')} examined</h1>"
        f"<h2>Findings</h2>{found}"
        + _map("Round trip in ms, from the row's host to the column's", names, examined.probes, _round_trip, True)
        + _map("Throughput in Mbit/s, both ways at once", names, examined.probes, _throughput, False)
        + "<p class=note>Red: no connection. Grey: not measured.</p></body></html>\n"
    )


def _round_trip(probe: Probe) -> float | None:
    return None if probe.rtt is None else probe.rtt * 1e3


def _throughput(probe: Probe) -> float | None:
    bulk = probe.bulk
    return bulk[0] * 8e-6 / bulk[1] if bulk and bulk[1] else None


def _map(
    title: str,
    names: Sequence[str],
    probes: Mapping[str, Mapping[str, Probe]],
    value: Callable[[Probe], float | None],
    low_is_good: bool,
) -> str:
    """Return a table whose cells are coloured by their ratio to the median; empty if nothing was measured."""
    known = [each for others in probes.values() for probe in others.values() if (each := value(probe)) is not None]
    if not known:
        return ""
    median = statistics.median(known)
    tops = "".join(f'<th class="top">{escape(name)}</th>' for name in names)
    rows = []
    for name in names:
        cells = [_cell(probes.get(name, {}).get(other), value, median, low_is_good) for other in names]
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return f"<h2>{escape(title)}</h2><table class=map><tr><th></th>{tops}</tr>{''.join(rows)}</table>"


def _cell(
    probe: Probe | None,
    value: Callable[[Probe], float | None],
    median: float,
    low_is_good: bool,
) -> str:
    if probe is None:
        return '<td class="none"></td>'
    shown = value(probe)
    if shown is None:
        reached = "ok" in probe.tcp.values()
        return '<td class="none"></td>' if reached else '<td class="bad">×</td>'
    ratio = shown / median if median else 1.0
    badness = ratio if low_is_good else 1 / ratio if ratio else 100.0
    # Green at the median or better, red at ten times worse.
    hue = 130 - 130 * min(1.0, max(0.0, (badness - 1) / 9))
    text = f"{shown:.2f}" if shown < 10 else f"{shown:.0f}"
    return f'<td style="background: hsl({hue:.0f} 65% 72%)">{text}</td>'
