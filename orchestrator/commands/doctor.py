"""``orch doctor``: what would keep a run from working, on every node and between every two, and what mends it."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.commands.examine import ALL_PARTS, dialled, facts_request
from orchestrator.commands.session import Target, session
from orchestrator.core.checks import check
from orchestrator.core.findings import Examined
from orchestrator.core.plan import DEFAULT_PORT
from orchestrator.core.report import as_html, as_json
from orchestrator.display import Display
from orchestrator.errors import NodeUnreachable, PreflightError, UsageError
from orchestrator.remote.probing import ask

# How long streams between nodes are timed with --deep, in seconds.
DEEP_SECONDS = 3.0


def doctor(target: Target, backend: str, port: int | None, deep: bool, html: Path | None, display: Display) -> int:
    """Check every host and every pair; returns 0 if a run could start, 4 if a host is out of reach, else 3."""
    began = time.monotonic()
    with session(target, spares_too=True) as opened:
        with display.stage(f"connecting to {len(opened.hosts)} hosts"):
            nodes, unreachable = opened.connect_some()
        hosts = [host for host in opened.hosts if host.name in {node.name for node in nodes}]
        fixed = port or opened.inventory.rendezvous.port
        requests = {host.name: facts_request(host, ALL_PARTS) for host in hosts}
        if hosts:
            requests[hosts[0].name] |= {"master_port": fixed or DEFAULT_PORT, "port_fixed": fixed is not None}
        with display.stage("asking every host"):
            answers, silent = ask(nodes, requests, opened.fanout)
        examined = Examined(
            hosts=tuple(host for host in hosts if host.name in answers),
            facts={name: answer.facts for name, answer in answers.items()},
            port=fixed,
            backend=backend,
            one_machine=opened.inventory.sandbox,
        )
        with display.stage(f"dialling between {len(answers)} hosts"):
            examined = dialled(examined, answers, thorough=True, seconds=DEEP_SECONDS if deep else None)
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
