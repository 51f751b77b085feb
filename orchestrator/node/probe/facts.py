"""The verb ``facts``: report what a run or ``orch doctor`` needs to know about the node.

``protocol/facts.py`` describes request and answer. All parts are gathered at once, each under a time limit, so one
that hangs or fails does not delay the others.
"""

from __future__ import annotations

import array
import fcntl
import getpass
import glob
import os
import socket
import struct
import time

from ...protocol import frames
from ...protocol.facts import Clock, Interpreter, NodeFacts, Parts, Running
from ..host import bounded, lock, paths
from ..mpi import launch
from ..run import stop
from ..store import receipts
from . import dial, gpus, interpreters, machine, rdma, software, stale

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ...protocol.facts import AskFacts

    # Interface, address or network, prefix length.
    Address = tuple[str, str, int]

# How long the look for data may take, in seconds: one look at each file.
DATA_LIMIT = 30.0
SIOCGIFCONF, SIOCGIFFLAGS, SIOCGIFNETMASK = 0x8912, 0x8913, 0x891B
IFF_UP = 0x1


def answer(request: AskFacts, out: int, nonce: str) -> None:
    """Send the node's clock, then its facts; with ``request.probe``, dial other nodes as ``dial.obey`` does.

    ``nonce``: of this call, by which other nodes recognise this one.
    """
    frames.send(out, Clock(time=time.time()))
    answers, unanswered = bounded.run_all(wanted(request))
    count = answers.pop("gpu_count", 0)
    # Data that a hanging disk does not show count as missing, and sending them gives the reason.
    there = answers.pop("data", (False,) * len(request.data))
    unanswered.pop("data", None)
    why = unanswered.pop("software", None)
    told = answers.pop("software", None) or software.Software(None, None, why, why)
    unanswered.pop("gpu_count", None)
    if told.versions is None:
        unanswered["versions"] = told.error or "no answer"
    if "torch" in request.parts and told.torch is None:
        unanswered["torch"] = told.torch_error or "no answer"
    facts = NodeFacts(
        hostname=paths.hostname(),
        home=os.path.expanduser("~"),
        path=os.environ.get("PATH", os.defpath),
        user=getpass.getuser(),
        system=os.uname().sysname,
        python=interpreter(request, told),
        gpus=count,
        addresses=tuple(addresses()),
        routes=tuple(routes()),
        ssh_address=ssh_address(),
        free_port=free_port(request.master_port, request.port_fixed),
        trees=tuple(os.path.isdir(paths.tree_dir(*tree)) for tree in request.trees),
        data=there,
        running=running(),
        leftovers=tuple(sorted({run_id for run_id, _ in stop.leftovers().values()})),
        parts=Parts(**answers, versions=told.versions, torch=told.torch, unanswered=unanswered),
    )
    frames.send(out, facts)
    if request.probe:
        dial.obey(nonce, out)


def wanted(request: AskFacts) -> dict[str, tuple[float, Callable[[], object]]]:
    """Return the parts that ``request`` asks for: by name, the time limit in seconds and the function."""
    temporary = os.environ.get("TMPDIR") or "/tmp"
    known: dict[str, tuple[float, Callable[[], object]]] = {
        "system": (2.0, machine.system),
        "own_name": (5.0, machine.own_name),
        "limits": (2.0, machine.limits),
        "memory": (2.0, machine.memory),
        "disks": (4.0, lambda: machine.disks({"workdir": request.workdir, "home": "~", "/tmp": temporary})),
        "shm": (2.0, lambda: machine.disk("/dev/shm")),
        "variables": (2.0, machine.variables),
        "interfaces": (2.0, machine.interfaces),
        "listeners": (4.0, lambda: machine.listeners([request.master_port])),
        "torchruns": (4.0, machine.torchruns),
        "home": (2.0, machine.home),
        "names": (5.0, lambda: machine.names(request.names)),
        "timekeeping": (2.0, machine.timekeeping),
        "logout": (2.0, machine.logout),
        "rdma": (2.0, rdma.ports),
        "locks": (2.0, stale.locks),
        "kept": (2.0, lambda: stale.kept(request.workdir, request.project)),
        "gpus": (gpus.LIMIT + 1, gpus.devices),
        "gpu_users": (gpus.LIMIT + 1, gpus.users),
        "gpu_peers": (gpus.LIMIT + 1, gpus.peers),
        "gpu_errors": (gpus.LIMIT + 1, gpus.errors),
        "mpi": (launch.LIMIT + 1, lambda: launch.found(request.python or "python3")),
        "interpreters": (interpreters.LIMIT + 1, interpreters.with_torch),
    }
    found = {name: known[name] for name in request.parts if name in known}
    if request.data:
        found["data"] = (DATA_LIMIT, lambda: tuple(receipts.shows(check) for check in request.data))
    found["gpu_count"] = (gpus.LIMIT + 1, gpu_count)
    limit = software.IMPORT_LIMIT + (software.CONTAINER_LIMIT + software.VERSIONS_LIMIT if request.inside else 0)
    found["software"] = (
        limit + 1,
        lambda: software.look(
            request.python, "torch" in request.parts, request.packages, request.inside, request.container
        ),
    )
    return found


def interpreter(request: AskFacts, told: software.Software) -> Interpreter:
    """Return the facts of the training interpreter that a launch plan needs; in a container, it is as named."""
    path = request.python or "python3" if request.container is not None else software.path_of(request.python)
    if told.versions is None:
        return Interpreter(path=path, error=told.error)
    return Interpreter(path=path, version=told.versions.version, torch=told.versions.packages.get("torch"))


def running() -> Running | None:
    """Return the run that holds this host's lock, or None."""
    holder = lock.holder()
    if holder is None:
        return None
    usual = Running()
    return Running(
        run_id=holder.run_id or usual.run_id,
        owner=holder.owner or usual.owner,
        workload=holder.workload or usual.workload,
        age=holder.age or usual.age,
    )


def gpu_count() -> int:
    """Return how many NVIDIA or AMD GPUs a process of this session would see, as torch counts them."""
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        visible = os.environ.get(name)
        if visible is not None:
            return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    listed = len(glob.glob("/proc/driver/nvidia/gpus/*")) or len(amd_gpus())
    if listed:
        return listed
    try:
        text = bounded.run(["nvidia-smi", "-L"], gpus.LIMIT)
    except bounded.NoAnswer:
        return 0
    return sum(1 for line in text.splitlines() if line.startswith("GPU "))


def amd_gpus(base: str = "/sys/class/kfd/kfd/topology/nodes") -> list[str]:
    """Return the GPUs in the kernel's compute topology: the nodes with SIMD units (amdkfd/kfd_topology.c)."""
    found = []
    for path in sorted(glob.glob(base + "/*/properties")):
        fields = dict(line.split() for line in machine.read(path).splitlines() if len(line.split()) == 2)
        if fields.get("simd_count", "0") != "0":
            found.append(os.path.dirname(path))
    return found


def addresses() -> list[Address]:
    """Return the addresses of interfaces: the IPv4 ones of those that are up, and IPv6 ones."""
    return ipv4_addresses() + ipv6_addresses()


def ipv4_addresses() -> list[Address]:
    """Return the IPv4 addresses of interfaces that are up, secondary ones included (SIOCGIFCONF, netdevice(7))."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        size = 40 * 1024
        names = array.array("B", b"\0" * size)
        request = struct.pack("iL", size, names.buffer_info()[0])
        used = struct.unpack("iL", fcntl.ioctl(sock.fileno(), SIOCGIFCONF, request))[0]
        raw = names.tobytes()
        for at in range(0, used, 40):
            label = raw[at : at + 16].split(b"\0", 1)[0]
            entry = label.ljust(16, b"\0") + raw[at + 16 : at + 40]
            flags = struct.unpack_from("H", fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, entry), 16)[0]
            if not flags & IFF_UP:
                continue
            mask = fcntl.ioctl(sock.fileno(), SIOCGIFNETMASK, entry)[20:24]
            prefix = bin(struct.unpack(">I", mask)[0]).count("1")
            found.append((label.decode("ascii", "replace"), socket.inet_ntoa(raw[at + 20 : at + 24]), prefix))
    return found


def ipv6_addresses() -> list[Address]:
    """Return the IPv6 addresses that are not link-local."""
    found = []
    try:
        with open("/proc/net/if_inet6") as lines:
            for line in lines:
                packed, _index, prefix, scope, _flags, name = line.split()
                if scope != "20":
                    address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(packed))
                    found.append((name, address, int(prefix, 16)))
    except OSError:
        pass
    return found


def routes() -> list[Address]:
    """Return the IPv4 routes that are up (/proc/net/route, proc_net(5))."""
    found = []
    try:
        with open("/proc/net/route") as lines:
            next(lines)
            for line in lines:
                name, destination, _gateway, flags, _, _, _, mask = line.split()[:8]
                if int(flags, 16) & 1:
                    network = socket.inet_ntoa(struct.pack("<I", int(destination, 16)))
                    found.append((name, network, bin(int(mask, 16)).count("1")))
    except (OSError, StopIteration):
        pass
    return found


def ssh_address() -> str | None:
    """Return the address of this node that the SSH connection came in on, or None."""
    parts = os.environ.get("SSH_CONNECTION", "").split()
    return parts[2] if len(parts) == 4 else None


def free_port(first: int | None, fixed: bool) -> int | None:
    """Return the first free TCP port from ``first`` on, or None; with ``fixed``, try ``first`` only.

    Ephemeral ports are skipped: the kernel assigns them to outgoing connections, so a port that is free now may be
    taken when torchrun binds it.
    """
    if first is None:
        return None
    low, high = 32768, 60999
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as lines:
            low, high = (int(word) for word in lines.read().split())
    except (OSError, ValueError):
        pass
    candidates = [first] if fixed else [port for port in range(first, 65536) if not low <= port <= high]
    for port in candidates:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            # torch's store sets SO_REUSEADDR as well, so it can bind a port in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("0.0.0.0", port))
                sock.listen(1)
                return port
            except OSError:
                continue
    return None
