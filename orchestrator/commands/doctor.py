"""``orch doctor``: what would keep a run from working, on every node, before one is started."""

from __future__ import annotations

from orchestrator.commands.run import environments
from orchestrator.commands.session import Target, gather_facts, session
from orchestrator.core.checks import check
from orchestrator.core.plan import DEFAULT_PORT
from orchestrator.display import Display
from orchestrator.errors import PreflightError


def doctor(target: Target, display: Display) -> int:
    """Check every host; returns 0 if a run could start, else the exit code of a failed preflight."""
    with session(target) as opened:
        with display.stage(f"connecting to {len(opened.hosts)} hosts"):
            nodes = opened.connect()
        port = opened.inventory.rendezvous.port
        requests: dict[str, dict[str, object]] = {host.name: {"python": host.python} for host in opened.hosts}
        requests[opened.hosts[0].name] |= {
            "master_port": port or DEFAULT_PORT,
            "port_fixed": port is not None,
        }
        with display.stage("checking"):
            facts = gather_facts(nodes, requests, opened.fanout)
    findings = check(opened.hosts, facts, port)
    for line in environments(facts):
        display.write(f"ok: {line}\n")
    for finding in findings:
        display.write(f"{finding.severity}: {finding}\n")
    return PreflightError.exit_code if any(finding.severity == "fail" for finding in findings) else 0
