"""``orch doctor``: what would keep a run from working, on every node and between every two, and what mends it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.commands.run import run
from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.findings import Examined, Finding
from orchestrator.core.checks.report import as_json
from orchestrator.core.checks.software import parsed
from orchestrator.core.inventory.target import Target
from orchestrator.core.launch.plan import DEFAULT_PORT, RunSpec
from orchestrator.errors import NodeUnreachable, OrchError, PreflightError, UsageError
from orchestrator.operations.asked import RunOptions
from orchestrator.operations.cluster import OpenCluster, open_cluster
from orchestrator.operations.mending import mend
from orchestrator.operations.source import project_name, project_of, resolve
from orchestrator.operations.survey import ALL_PARTS, dialled, facts_request
from orchestrator.remote.ping import ping
from orchestrator.remote.probing import ask
from orchestrator.ui.display import Display
from orchestrator.ui.doctor import show_examination
from orchestrator.ui.html import as_html

# How long streams between nodes are timed with --deep, in seconds.
DEEP_SECONDS = 3.0
REHEARSAL_LIMIT = 60.0


@dataclass(frozen=True)
class DoctorOptions:
    """What ``orch doctor`` was asked for. ``agree`` is asked before each mend; None: nothing is mended.

    ``mesh``: whether every node must be able to log in to every other.
    """

    backend: str = "auto"
    port: int | None = None
    deep: bool = False
    html: Path | None = None
    mesh: bool = False
    agree: Callable[[str], bool] | None = None


def doctor(target: Target, options: DoctorOptions, display: Display) -> int:
    """Check every host and every pair; returns 0 if a run could start, 4 if a host is out of reach, else 3.

    What was mended is looked at again.
    """
    began, made = time.monotonic(), 0
    with open_cluster(target, spares_too=True, interpreters=True) as opened:
        examined, errors = look(opened, options, display)
        findings = check(examined) if examined.hosts else ()
        _show(examined, findings, errors, time.monotonic() - began, display)
        if options.agree is not None and (findings or errors):
            made = mend(opened, target.hosts_file, examined, findings, errors, options.agree, display)
            display.note(f"{made} mended")
    failed = bool(errors) or any(each.severity == "fail" for each in findings)
    if options.deep and not display.as_json and not failed:
        failed = rehearse(target, options, display) != 0
    if made:
        return doctor(target, replace(options, agree=None), display)
    if options.html is not None:
        try:
            options.html.write_text(as_html(examined, findings, errors), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {options.html}: {error.strerror}") from None
        display.note(f"wrote {options.html}")
    if any(isinstance(error, NodeUnreachable) for error in errors):
        return NodeUnreachable.exit_code
    return PreflightError.exit_code if failed else 0


def rehearse(target: Target, options: DoctorOptions, display: Display) -> int:
    """A real torchrun on every host that is no spare, and an all-reduce over all of them; its exit code."""
    source = resolve("allreduce-bench")
    args = ("--collectives", "all-reduce", "--sizes", "1K", "16M")
    spec = RunSpec(workload=source.workload, args=args, backend=options.backend, port=options.port)
    with TemporaryDirectory() as folder:
        asked = RunOptions(spec, source, Path(folder), check=False, limit=REHEARSAL_LIMIT)
        return run(target, asked, display)


def look(opened: OpenCluster, options: DoctorOptions, display: Display) -> tuple[Examined, list[OrchError]]:
    """Everything about the hosts that answer, and why others do not."""
    with display.stage(f"connecting to {len(opened.hosts)} hosts"):
        nodes, errors = opened.connect_some()
    hosts = [host for host in opened.hosts if host.name in {node.name for node in nodes}]
    fixed = options.port or opened.inventory.rendezvous.port
    project = project_of(Path.cwd())
    wanted = requirements_of(project)
    requests = {
        host.name: facts_request(host, ALL_PARTS).replace(
            names=tuple(dict.fromkeys(name for other in hosts for name in (other.name, other.address))),
            packages=tuple(each.name for each in parsed(wanted)),
            project=project_name(project),
        )
        for host in hosts
    }
    if hosts:
        first = hosts[0].name
        port = fixed or DEFAULT_PORT
        requests[first] = requests[first].replace(master_port=port, port_fixed=fixed is not None)
    dialled_at = {link.host.name: link.address for link in opened.links if not link.host.jump}
    reached = {node.name: dialled_at[node.name] for node in nodes if node.name in dialled_at}
    with ThreadPoolExecutor(1) as beside, display.stage("asking every host"):
        # A sandbox's hosts are this machine.
        pinging = beside.submit(ping, {} if opened.inventory.sandbox else reached)
        answers, silent = ask(nodes, requests, opened.fanout)
        pings = pinging.result()
    examined = Examined(
        hosts=tuple(host for host in hosts if host.name in answers),
        facts={name: answer.facts for name, answer in answers.items()},
        port=fixed,
        backend=options.backend,
        pings=pings,
        requirements=wanted,
        one_machine=opened.inventory.sandbox,
    )
    with display.stage(f"dialling between {len(answers)} hosts"):
        interface, seconds = opened.inventory.rendezvous.interface, DEEP_SECONDS if options.deep else None
        mesh = options.mesh or options.backend == "mpi"
        examined = dialled(examined, answers, interface, thorough=True, seconds=seconds, mesh=mesh)
    return examined, [*errors, *silent]


def requirements_of(project: Path) -> tuple[str, ...]:
    """The lines of a project's requirements.txt; none where it has none."""
    try:
        return tuple((project / "requirements.txt").read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return ()


def _show(
    examined: Examined, findings: Sequence[Finding], errors: Sequence[OrchError], seconds: float, display: Display
) -> None:
    if display.as_json:
        display.write(as_json(examined, findings, errors))
    else:
        show_examination(display, examined, findings, errors, seconds)
