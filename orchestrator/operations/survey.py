"""The survey of a cluster: the facts of every node, and what the nodes find out about each other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.checks.facts import Facts
from orchestrator.core.checks.findings import Examined
from orchestrator.core.checks.software import parsed
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.addresses import candidates, master_address
from orchestrator.core.launch.container.engines import contained, in_container
from orchestrator.core.launch.container.plan import container_plan
from orchestrator.core.launch.plan import DEFAULT_PORT, own_address
from orchestrator.core.text.counted import counted
from orchestrator.errors import OrchError, PreflightError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.images import engines
from orchestrator.operations.run.source import project_name, project_of
from orchestrator.protocol.container.image import EngineFacts
from orchestrator.protocol.container.process import Contained
from orchestrator.protocol.facts import AskFacts
from orchestrator.remote.ping import ping
from orchestrator.remote.probing import FactsCall, Mesh, ask_facts, hang_up
from orchestrator.ui.display import Display

# The parts of the facts. ``orch run`` asks for the quick ones before each start, ``orch doctor`` for all.
QUICK_PARTS = (
    "system",
    "own_name",
    "limits",
    "memory",
    "disks",
    "shm",
    "variables",
    "interfaces",
    "listeners",
    "logout",
)
OF_GPUS = ("gpus", "gpu_users", "gpu_peers", "gpu_errors", "rdma")
OF_THE_PAST = ("torchruns", "locks", "kept")
ALL_PARTS = (*QUICK_PARTS, *OF_GPUS, *OF_THE_PAST, "home", "names", "timekeeping", "torch")


# Duration of the streams between nodes that --deep times, in seconds.
DEEP_SECONDS = 3.0


@dataclass(frozen=True)
class DoctorOptions:
    """The options of ``orch doctor``. ``agree`` is asked before each mend; None: nothing is mended.

    ``mesh``: also check that each node can log in to each other node by SSH.
    """

    backend: str = "auto"
    port: int | None = None
    deep: bool = False
    html: Path | None = None
    mesh: bool = False
    agree: Callable[[str], bool] | None = None


def facts_request(host: Host, parts: Sequence[str], engine: EngineFacts | None = None) -> AskFacts:
    """Return the request for a host's facts, still without the master's port and the trees.

    ``engine``: of the host's container, in which the interpreter is; None if there is none.
    """
    asked = AskFacts(python=host.python, workdir=host.workdir, parts=tuple(parts), probe=True)
    if engine is None or host.container is None:
        return asked
    if engine.error is not None or engine.image_id is None:
        return asked.replace(container=Contained(name=""))
    name = f"orch-facts-{secrets.token_hex(6)}"
    plan = container_plan(
        host.container,
        engine,
        name,
        login=engine.login,
        workdir=engine.workdir,
        home=engine.home,
        gpus=host.gpus != 0 and engine.gpu_runtime,
    )
    made = in_container(plan, "", (), {})
    return asked.replace(inside=made.argv, container=contained(plan, made))


def with_probes(
    examined: Examined,
    answers: Mapping[str, FactsCall],
    interface: str | None,
    *,
    thorough: bool,
    seconds: float | None = None,
    mesh: bool = False,
) -> Examined:
    """Let the nodes dial each other, and return ``examined`` with the results. Then no node listens any more.

    ``interface`` is the inventory's for the rendezvous: nodes dial the addresses that a run would use. Unless
    ``thorough``, they dial one address per node, and try connections only. ``seconds`` is the duration of the
    timed streams; None: a moment. With ``mesh``, they also log in to each other by SSH.
    """
    hosts, facts = examined.hosts, examined.facts
    planned = planned_addresses(hosts, facts, interface)
    offered = {
        host.name: [
            *([planned[host.name]] if host.name in planned else []),
            *(each for each in candidates(host, facts, hosts) if each != planned.get(host.name)),
        ]
        for host in hosts
    }
    if not thorough:
        offered = {name: each[:1] for name, each in offered.items()}
    port = facts[hosts[0].name].free_port if hosts else None
    ports = {host.name: host.port or 22 for host in hosts} if mesh else {}
    try:
        probes, logins = Mesh(answers, offered, port, seconds, thorough, ports).probe()
    finally:
        hang_up(answers)
    first = {name: each[0] for name, each in offered.items() if each}
    return replace(examined, probes=probes, logins=logins, addresses=first)


def planned_addresses(hosts: Sequence[Host], facts: Mapping[str, Facts], interface: str | None) -> dict[str, str]:
    """Return the address of each node that a run would use. Nodes without one are left out."""
    if not hosts:
        return {}
    try:
        master = master_address(hosts[0], hosts, facts, interface)
    except PreflightError:
        return {}
    found = {hosts[0].name: master}
    for host in hosts[1:]:
        address = own_address(host, facts[host.name], master, interface)
        if address is not None:
            found[host.name] = address
    return found


def survey(opened: OpenCluster, options: DoctorOptions, display: Display) -> tuple[Examined, list[OrchError]]:
    """Survey the hosts that answer. Return what is known of them, and the errors of the others."""
    with display.stage(f"connecting to {counted(len(opened.hosts), 'host')}"):
        nodes, errors = opened.connect_some()
    hosts = [host for host in opened.hosts if host.name in {node.name for node in nodes}]
    fixed = options.port or opened.inventory.rendezvous.port
    project = project_of(Path.cwd())
    wanted = requirements_of(project)
    found, unanswered = engines(opened, nodes)
    requests = {
        host.name: facts_request(host, ALL_PARTS, found.get(host.name)).replace(
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
        # The hosts of a sandbox are this machine: pings would tell nothing.
        pinging = beside.submit(ping, {} if opened.inventory.sandbox else reached)
        answers, silent = ask_facts(nodes, requests, opened.fanout)
        pings = pinging.result()
    examined = Examined(
        hosts=tuple(host for host in hosts if host.name in answers),
        facts={name: replace(answer.facts, engine=found.get(name)) for name, answer in answers.items()},
        port=fixed,
        backend=options.backend,
        pings=pings,
        requirements=wanted,
        one_machine=opened.inventory.sandbox,
    )
    with display.stage(f"dialling between {counted(len(answers), 'host')}"):
        interface, seconds = opened.inventory.rendezvous.interface, DEEP_SECONDS if options.deep else None
        mesh = options.mesh or options.backend == "mpi"
        examined = with_probes(examined, answers, interface, thorough=True, seconds=seconds, mesh=mesh)
    return examined, [*errors, *unanswered, *silent]


def requirements_of(project: Path) -> tuple[str, ...]:
    """Return the lines of a project's requirements.txt, none if the file is missing."""
    try:
        return tuple((project / "requirements.txt").read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return ()
