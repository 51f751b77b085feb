"""``orch doctor``: what would keep a run from working, on every node and between every two, and what mends it."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.commands.examine import dialled, examine
from orchestrator.commands.session import Target, session
from orchestrator.core.checks import check
from orchestrator.core.report import as_html, as_json
from orchestrator.display import Display
from orchestrator.errors import NodeUnreachable, PreflightError, UsageError

# How long streams between nodes are timed with --deep, in seconds.
DEEP_SECONDS = 3.0


def doctor(target: Target, backend: str, port: int | None, deep: bool, html: Path | None, display: Display) -> int:
    """Check every host and every pair; returns 0 if a run could start, 4 if a host is out of reach, else 3."""
    began = time.monotonic()
    with session(target, spares_too=True) as opened:
        with display.stage(f"connecting to {len(opened.hosts)} hosts"):
            nodes, unreachable = opened.connect_some()
        with display.stage("asking every host"):
            examined, silent = examine(opened, nodes, backend, port)
        with display.stage(f"dialling between {len(examined.hosts)} hosts"):
            examined = dialled(examined, nodes, thorough=True, seconds=DEEP_SECONDS if deep else None)
    findings = check(examined) if examined.hosts else ()
    errors = [*unreachable, *silent]
    if display.as_json:
        display.write(as_json(examined, findings, errors))
    else:
        display.examination(examined, findings, errors, time.monotonic() - began)
    if html is not None:
        try:
            html.write_text(as_html(examined, findings, errors), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {html}: {error.strerror}") from None
        display.note(f"wrote {html}")
    if errors:
        return NodeUnreachable.exit_code
    return PreflightError.exit_code if any(each.severity == "fail" for each in findings) else 0
