"""The list of all checks. Each check is a pure function from ``Examined`` to findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.core.checks import cluster as cluster
from orchestrator.core.checks import containers as container
from orchestrator.core.checks import gpus as gpu
from orchestrator.core.checks import nodes as node
from orchestrator.core.checks import pairs as pair
from orchestrator.core.checks import software as software
from orchestrator.core.checks.findings import SEVERITIES, Check, Examined, Finding

CHECKS: tuple[Check, ...] = (
    Check(
        "shell",
        "clean login shell",
        "output of the login shell corrupts scp, rsync and git, though not orch",
        node.shell_noise,
    ),
    Check("engine", "container engine", "no container starts", container.engine),
    Check(
        "images",
        "the image is on every host",
        "a run waits for the image, or ranks of different versions fail with misleading errors",
        container.images,
    ),
    Check("gpu runtime", "containers get GPUs", "ranks in containers see no GPU", container.gpu_runtime),
    Check("interpreter", "interpreter and torch", "torchrun cannot start", software.interpreter),
    Check(
        "import",
        "torch can be imported",
        "every rank fails at its first line",
        software.torch_imports,
        quick=False,
    ),
    Check(
        "torchvision",
        "torchvision matches torch",
        "importing torchvision fails on every rank",
        software.torchvision,
    ),
    Check(
        "requirements",
        "requirements are installed",
        "some ranks fail at an import and the others wait for them",
        software.requirements,
        quick=False,
    ),
    Check("busy", "no other run", "two runs share GPUs, ports and memory", node.busy),
    Check(
        "launchers",
        "no foreign torchrun",
        "a foreign torchrun may hold GPUs and the master port",
        node.other_launchers,
        quick=False,
    ),
    Check(
        "locks",
        "no stale locks",
        "torch waits for ever for the lock of an extension build",
        node.stale_locks,
        quick=False,
    ),
    Check("kept", "old trees and runs", "old trees and working folders fill the disk", node.kept, quick=False),
    Check("logout", "runs survive logout", "a detached run ends with its session", node.logout),
    Check(
        "hostname", "own host name", "Gloo advertises 127.0.1.1 and the other nodes dial themselves", node.own_name
    ),
    Check("interface", "named interfaces exist", "Gloo and NCCL fail or choose another network", node.interface),
    Check("port", "master port is free", "node 0 fails at once and the others wait in silence", node.master_port),
    Check("gpus", "GPUs", "ranks without a GPU fail; a failing GPU slows all ranks", gpu.gpus),
    Check("cuda", "torch can use the GPUs", "ranks fail or fall back to the CPU", gpu.torch_sees, quick=False),
    Check("peers", "GPUs have peer access", "NCCL is slow or hangs", gpu.peer_access, quick=False),
    Check(
        "xid",
        "GPU errors",
        "a GPU with hardware errors fails soon, and all ranks with it",
        gpu.hardware_errors,
        quick=False,
    ),
    Check("rdma", "RDMA adapters", "NCCL hangs between adapters of different kinds", gpu.adapters, quick=False),
    Check("disk", "disk space", "a full disk loses the snapshot and the traceback", node.disks),
    Check("shm", "/dev/shm", "DataLoader workers die with a bus error", node.shared_memory),
    Check(
        "limits", "session limits", "ranks cannot open enough files, or lock memory for InfiniBand", node.limits
    ),
    Check("memory", "memory", "the kernel kills the largest rank", node.memory),
    Check("cores", "processes per core", "ranks share cores and all wait for the slowest", node.processes),
    Check("ping", "ping from this machine", "logs arrive late and connections break", node.pings, quick=False),
    Check("parts", "facts arrive in time", "a node that hangs now will hang later", node.parts),
    Check(
        "tcp", "every pair on any port", "Gloo and NCCL choose their own ports, so init hangs", pair.connections
    ),
    Check("master", "the master port from everywhere", "the rendezvous times out after minutes", pair.master),
    Check("loss", "packet loss", "TCP and collectives slow to a crawl", pair.packet_loss, quick=False),
    Check(
        "mtu", "full-size packets", "init works and the first large tensor hangs", pair.full_packets, quick=False
    ),
    Check(
        "throughput", "link throughput", "one slow link sets the pace of all ranks", pair.throughput, quick=False
    ),
    Check("latency", "round-trip times", "a node on another network slows all ranks", pair.latency, quick=False),
    Check("logins", "SSH between nodes", "mpirun and DeepSpeed cannot start ranks", pair.logins, quick=False),
    Check("versions", "versions agree", "ranks fail with misleading errors", cluster.versions),
    Check("code", "code agrees", "ranks with different code hang in collectives", cluster.trees, quick=False),
    Check("drivers", "GPUs and drivers agree", "the slowest GPU sets the pace", cluster.drivers, quick=False),
    Check("systems", "systems agree", "binaries of one host do not run on another", cluster.systems),
    Check("variables", "variables agree", "ranks with different settings hang in collectives", cluster.variables),
    Check("clocks", "clocks agree", "c10d declares live nodes dead", cluster.clocks),
    Check(
        "ntp",
        "clocks are synchronised",
        "clocks that agree today differ next week",
        cluster.timekeeping,
        quick=False,
    ),
    Check(
        "names",
        "names resolve alike",
        "ranks that connect by name reach the wrong node",
        cluster.names,
        quick=False,
    ),
    Check("identity", "each host is a machine", "two torchruns compete for one machine", cluster.identities),
    Check("addresses", "addresses are unique", "ranks dial themselves", cluster.addresses),
    Check(
        "families",
        "IPv4 everywhere or nowhere",
        "the ends of a connection use different families",
        cluster.families,
    ),
    Check("load", "load", "a busy node slows all ranks", cluster.load, quick=False),
    Check(
        "equal mtu",
        "MTUs agree",
        "a switch may drop the larger packets of some nodes",
        pair.equal_mtus,
        quick=False,
    ),
    Check(
        "home", "network file systems", "every rank waits for the file server", cluster.shared_homes, quick=False
    ),
)


def check(examined: Examined, *, quick: bool = False) -> tuple[Finding, ...]:
    """Return all findings, or those of quick checks, the most severe first and then in the order of the checks."""
    found = [finding for each in CHECKS if each.quick or not quick for finding in each.findings(examined)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def as_markdown(seen: Mapping[str, Sequence[Finding]]) -> str:
    """Return the list of checks in ``docs/doctor.md``. ``seen``: example findings by check name."""
    parts = []
    for each in CHECKS:
        when = "before every run and by `orch doctor`" if each.quick else "by `orch doctor`"
        lines = [f"### {each.title} (`{each.name}`)", "", f"Risk: {each.why}. Checked {when}."]
        for finding in seen.get(each.name, ()):
            lines += ["", f"    {finding.severity}: {finding.where}: {finding.what}", f"      → {finding.remedy}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
