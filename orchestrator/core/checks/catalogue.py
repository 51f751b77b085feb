"""All checks: facts and probes -> findings. Each is a function of what was examined; none touches the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.core.checks import cluster as cluster
from orchestrator.core.checks import gpus as gpu
from orchestrator.core.checks import nodes as node
from orchestrator.core.checks import pairs as pair
from orchestrator.core.checks import software as software
from orchestrator.core.checks.findings import SEVERITIES, Check, Examined, Finding

CHECKS: tuple[Check, ...] = (
    Check(
        "shell",
        "clean login shell",
        "what it prints corrupts scp, rsync and git, though not orch",
        node.shell_noise,
    ),
    Check("interpreter", "interpreter and torch", "torchrun cannot start", software.interpreter),
    Check(
        "import",
        "torch can be imported",
        "every rank fails at its first line",
        software.torch_imports,
        quick=False,
    ),
    Check("torchvision", "torchvision belongs to torch", "its import fails on every rank", software.torchvision),
    Check(
        "requirements",
        "requirements are installed",
        "some ranks fail at an import, the others wait for them",
        software.requirements,
        quick=False,
    ),
    Check("busy", "no other run", "two runs share GPUs, ports and memory", node.busy),
    Check("launchers", "no foreign torchrun", "it may hold GPUs and the port", node.other_launchers, quick=False),
    Check("locks", "stale locks", "torch's extensions wait for them for ever", node.stale_locks, quick=False),
    Check("kept", "old trees and runs", "they fill the disk", node.kept, quick=False),
    Check("logout", "logout leaves runs alone", "a detached run ends with its session", node.logout),
    Check("hostname", "own host name", "Gloo advertises 127.0.1.1 and the others dial themselves", node.own_name),
    Check(
        "interface", "interfaces that are named", "Gloo and NCCL fail or choose another network", node.interface
    ),
    Check("port", "master port is free", "node 0 dies at once, and the others wait in silence", node.master_port),
    Check("gpus", "GPUs", "ranks without a GPU fail; a sick one holds all back", gpu.gpus),
    Check("cuda", "torch can use the GPUs", "ranks fail or fall back to the CPU", gpu.torch_sees, quick=False),
    Check("peers", "GPUs reach each other", "NCCL is slow, or hangs", gpu.peers, quick=False),
    Check("xid", "errors of GPUs", "a sick GPU fails soon, and all ranks with it", gpu.errors, quick=False),
    Check("rdma", "RDMA adapters", "NCCL hangs between adapters of different kinds", gpu.adapters, quick=False),
    Check("disk", "room to write", "a full disk takes the snapshot and the traceback with it", node.disks),
    Check("shm", "/dev/shm", "DataLoader workers die with a bus error", node.shared_memory),
    Check(
        "limits", "limits of a session", "too many open files, or no memory to lock for InfiniBand", node.limits
    ),
    Check("memory", "memory", "the kernel kills the largest rank", node.memory),
    Check("cores", "processes per core", "ranks take turns, and all wait for the slowest", node.processes),
    Check("ping", "ping from this machine", "logs come late and connections break", node.pings, quick=False),
    Check("parts", "answers in time", "a node that hangs now will hang later", node.parts),
    Check("tcp", "every pair on any port", "Gloo and NCCL open ports of their own: init hangs", pair.connections),
    Check("master", "the master port from everywhere", "the rendezvous times out after minutes", pair.master),
    Check("loss", "packet loss", "TCP crawls, and collectives with it", pair.packet_loss, quick=False),
    Check(
        "mtu", "full-size packets", "init works and the first large tensor hangs", pair.full_packets, quick=False
    ),
    Check("throughput", "links", "one slow link sets the pace of all ranks", pair.throughput, quick=False),
    Check("latency", "round trips", "a node on another network holds all back", pair.latency, quick=False),
    Check("logins", "SSH between nodes", "mpirun and DeepSpeed start nothing", pair.logins, quick=False),
    Check("versions", "versions agree", "failures that look like anything", cluster.versions),
    Check("code", "code agrees", "ranks with other code hang in collectives", cluster.trees, quick=False),
    Check("drivers", "GPUs and drivers agree", "the slowest sets the pace", cluster.drivers, quick=False),
    Check("systems", "systems agree", "binaries of one do not run on the other", cluster.systems),
    Check("variables", "variables agree", "ranks with other settings hang in collectives", cluster.variables),
    Check("clocks", "clocks agree", "c10d takes live nodes for dead ones", cluster.clocks),
    Check(
        "ntp",
        "clocks are kept right",
        "clocks that agree today differ next week",
        cluster.timekeeping,
        quick=False,
    ),
    Check("names", "names resolve alike", "ranks that go by name dial others", cluster.names, quick=False),
    Check("identity", "each host is a machine", "two torchruns fight for one machine", cluster.identities),
    Check("addresses", "addresses are unique", "ranks dial themselves", cluster.addresses),
    Check("families", "IPv4 everywhere or nowhere", "two sides of a connection do not meet", cluster.families),
    Check("load", "load", "a busy node holds all ranks back", cluster.load, quick=False),
    Check("equal mtu", "MTUs agree", "a switch may drop what only some nodes send", pair.equal_mtus, quick=False),
    Check("home", "network file systems", "every rank waits for the server", cluster.shared_homes, quick=False),
)


def check(examined: Examined, *, quick: bool = False) -> tuple[Finding, ...]:
    """Everything that is wrong, the worst first, in the order of the checks."""
    found = [finding for each in CHECKS if each.quick or not quick for finding in each.findings(examined)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def as_markdown(seen: Mapping[str, Sequence[Finding]]) -> str:
    """Every check for ``docs/doctor.md``; ``seen``: what each has said of planted faults, by its name."""
    parts = []
    for each in CHECKS:
        when = "before every run, and by `orch doctor`" if each.quick else "by `orch doctor`"
        lines = [f"### {each.title} (`{each.name}`)", "", f"Without it: {each.why}. Looked at {when}."]
        for finding in seen.get(each.name, ()):
            lines += ["", f"    {finding.severity}: {finding.where}: {finding.what}", f"      → {finding.remedy}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
