"""Facts: what a node reports about itself before a run and for ``orch doctor``.

The verb ``facts`` answers ``AskFacts`` with ``Clock``, then ``NodeFacts``. With ``probe`` the conversation
continues as ``probe.py`` describes.
"""

from __future__ import annotations

from .container.process import Contained
from .launch.mpi import MpiFound
from .message import Message, of
from .shapes import Misshapen, fail, flag, many, maybe, number, row, table, text, whole, word
from .terms import ADDRESS, ADDRESSES, BYTES, INTERFACE, PATH, PORT, TIME, TREE_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from typing_extensions import Self

LIMIT = row(maybe(BYTES), maybe(BYTES))


class DataCheck(Message):
    """Data to look for on the node.

    ``workdir``: the workdir, for orch's own records. ``root``: folder of the data.
    ``tree``: id of the entries that must have arrived below ``root`` and be unchanged; None for any contents.
    ``files``: of each of these groups of paths below ``root``, at least one must exist.
    """

    workdir: str = of(PATH)
    root: str = of(PATH)
    tree: str | None = of(maybe(TREE_ID), default=None)
    files: tuple[tuple[str, ...], ...] = of(many(many(PATH, 16), 256), default=())


class AskFacts(Message):
    """Sent by the control side to ask for facts; answered by ``Clock``, then ``NodeFacts``.

    ``python``: path or name of the training interpreter; None for ``python3``.
    ``workdir``: folder for synced trees and working folders on the node; ``~`` is expanded.
    ``project``: project whose newest tree ``StoredThere.newest`` is to name; None for none.
    ``parts``: names of the fields of ``Parts`` to fill; ``versions`` is always filled.
    ``trees``: workdir, project and tree id of each tree to look for; ``NodeFacts.trees`` answers in this order.
    ``data``: data to look for; ``NodeFacts.data`` answers in this order.
    ``master_port``: first port to try for the rendezvous; None if no port is needed.
    ``port_fixed``: whether ``master_port`` is the only port allowed.
    ``names``: host names to resolve on the node.
    ``packages``: distributions whose versions are wanted, besides torch, torchvision, numpy, NCCL and cuDNN.
    ``probe``: whether the node then takes part in dialling the others.
    ``inside``: words before the interpreter's that start it in the ``container``; empty to start it directly or,
    if there is a ``container``, not at all.
    """

    VERB: ClassVar[str] = "facts"
    python: str | None = of(maybe(PATH), default=None)
    workdir: str = of(PATH, default="~")
    project: str | None = of(maybe(PATH), default=None)
    parts: tuple[str, ...] = of(many(text(64)), default=())
    trees: tuple[tuple[str, str, str], ...] = of(many(row(PATH, PATH, TREE_ID)), default=())
    data: tuple[DataCheck, ...] = of(many(DataCheck.from_wire), default=())
    master_port: int | None = of(maybe(PORT), default=None)
    port_fixed: bool = of(flag, default=False)
    names: tuple[str, ...] = of(many(text(1024), 65536), default=())
    packages: tuple[str, ...] = of(many(text(256)), default=())
    probe: bool = of(flag, default=False)
    inside: tuple[str, ...] = of(many(text()), default=())
    container: Contained | None = of(maybe(Contained.from_wire), default=None)


class Clock(Message):
    """First frame of the answer to ``AskFacts``, sent before anything is measured.

    ``time``: the node's clock, in seconds since the epoch.
    """

    time: float = of(TIME)


class System(Message):
    """The operating system.

    ``os``: its name and version (os-release(5)). ``kernel``: the release. ``machine``: the architecture.
    ``libc``: name and version of the GNU C library, ``glibc 2.36``; empty for another one.
    ``firewall``: first of the known firewall tools that is installed; None if none is.
    ``boot_id``: id that the kernel generates at each boot; empty if there is none.
    ``root``: whether orch runs as root there.
    ``network``: inode of the network namespace, which tells containers of one machine apart; empty if unknown.
    """

    os: str = of(text(256))
    kernel: str = of(text(256))
    machine: str = of(text(64))
    libc: str = of(text(64))
    firewall: str | None = of(maybe(text(64)))
    boot_id: str = of(text(64))
    root: bool = of(flag)
    network: str = of(text(64), default="")


class OwnName(Message):
    """How the node resolves its own host name.

    ``hostname``: the name. ``addresses``: the result, sorted.
    ``error``: why the name does not resolve; None if it does.
    """

    hostname: str = of(text(256))
    addresses: tuple[str, ...] = of(many(ADDRESS))
    error: str | None = of(maybe(text()), default=None)


class Limits(Message):
    """Resource limits of an SSH session, each as (soft, hard); None in a pair means unlimited.

    ``open_files`` and ``processes``: counts. ``locked_memory``: bytes.
    ``ephemeral_ports``: first and last port that the kernel assigns to outgoing connections; None if unknown.
    """

    open_files: tuple[int | None, int | None] = of(LIMIT)
    processes: tuple[int | None, int | None] = of(LIMIT)
    locked_memory: tuple[int | None, int | None] = of(LIMIT)
    ephemeral_ports: tuple[int, int] | None = of(maybe(row(whole(0, 65535), whole(0, 65535))), default=None)


class Memory(Message):
    """Memory and processors.

    ``total``, ``available``, ``swap`` and ``swap_free``: bytes.
    ``limit``: smallest limit of the control groups around the session, in bytes; None if there is none.
    ``cores``: how many cores the session may use. ``load``: load average over five minutes.
    """

    total: int = of(BYTES)
    available: int = of(BYTES)
    swap: int = of(BYTES)
    swap_free: int = of(BYTES, default=0)
    limit: int | None = of(maybe(BYTES))
    cores: int = of(whole(1, 100_000))
    load: float = of(number(0, 1e7))


class Disk(Message):
    """The file system of a folder.

    ``path``: the folder. ``there``: whether it exists; if not, the nearest existing parent is described.
    ``free`` and ``size``: bytes, ``free`` as available to this user.
    ``inodes``: how many are free; None if the file system does not count them.
    ``writable``: whether a file can be created there. ``noexec``: whether the mount forbids executing programs.
    ``kind``: type of the file system, ``ext4``.
    """

    path: str = of(PATH)
    there: bool = of(flag, default=True)
    free: int = of(BYTES)
    size: int = of(BYTES)
    inodes: int | None = of(maybe(BYTES))
    writable: bool = of(flag)
    noexec: bool = of(flag)
    kind: str = of(text(128))


class Variables(Message):
    """Environment variables that change how training behaves.

    ``drift``: those of a non-interactive session whose names begin with ``NCCL_``, ``CUDA_`` and the like.
    """

    drift: dict[str, str] = of(table(text(65536), 4096))


class Interface(Message):
    """A network interface.

    ``up``: whether it is in use. ``speed``: Mbit/s; None if unknown. ``mtu``: bytes; None if unknown.
    ``kind``: ``ethernet``, ``infiniband`` or ``bridge``.
    """

    up: bool = of(flag)
    speed: int | None = of(maybe(whole()))
    mtu: int | None = of(maybe(whole(0, 1 << 20)))
    kind: str = of(text(64))


class Home(Message):
    """The home folder.

    ``path``: the folder. ``kind``: type of its file system. ``host``: name of the node that reports it.
    """

    path: str = of(PATH)
    kind: str = of(text(128))
    host: str = of(text(256))


class Timekeeping(Message):
    """Whether the clock is ``synchronised`` by NTP; None if the kernel does not tell."""

    synchronised: bool | None = of(maybe(flag))


class Logout(Message):
    """What happens to a session's processes when the session closes.

    ``kills``: whether systemd ends them.
    ``moves``: whether a supervisor can leave the session's scope, and so survive.
    """

    kills: bool = of(flag)
    moves: bool = of(flag, default=False)


class RdmaPort(Message):
    """A port of an InfiniBand or RoCE adapter, in the kernel's words.

    ``state``: ``ACTIVE``. ``rate``: ``200 Gb/sec (4X HDR)``. ``link``: ``InfiniBand`` or ``Ethernet``.
    """

    state: str = of(text(64))
    rate: str = of(text(128))
    link: str = of(text(64))


class StoredThere(Message):
    """What orch keeps in the workdir.

    ``path``: the workdir. ``trees`` and ``runs``: how many synced trees and working folders it holds.
    ``newest``: tree of the requested project that was synced last; None if there is none or no project was named.
    """

    path: str = of(PATH)
    trees: int = of(whole())
    runs: int = of(whole())
    newest: str | None = of(maybe(TREE_ID), default=None)


class Versions(Message):
    """The training interpreter and its packages, from package metadata.

    ``executable``: ``sys.executable``. ``version``: of Python, ``3.11.2``. ``packages``: versions by distribution.
    ``torchvision_wants``: version of torch that the installed torchvision requires; None if it requires none.
    ``path``: path by which the interpreter was started.
    """

    executable: str = of(PATH)
    version: str = of(text(64))
    packages: dict[str, str] = of(table(text(256)))
    torchvision_wants: str | None = of(maybe(text(256)))
    path: str = of(PATH)


class Torch(Message):
    """What torch reports once it is imported.

    ``cuda``: version of CUDA that it was built for; None for a build without CUDA.
    ``devices``: how many GPUs it sees. ``backends``: which of ``gloo``, ``nccl`` and ``mpi`` it was built with.
    """

    cuda: str | None = of(maybe(text(64)))
    devices: int = of(whole(0, 100_000))
    backends: tuple[str, ...] = of(many(text(64), 64))


class Interpreter(Message):
    """The training interpreter, as the launch plan needs it.

    ``path``: its path, or the requested name if it was not found.
    ``version``: version of Python; None if the interpreter cannot be used.
    ``torch``: version of torch; None if torch is not installed.
    ``error``: why the interpreter cannot be used; None if it can.
    """

    path: str = of(PATH)
    version: str | None = of(maybe(text(64)), default=None)
    torch: str | None = of(maybe(text(64)), default=None)
    error: str | None = of(maybe(text()), default=None)


class Parts(Message):
    """Further facts. A part is None if it was not asked for or gave no answer; ``unanswered`` gives the reasons.

    ``disks``: by purpose: ``workdir``, ``home``, ``/tmp``. ``shm``: the file system of ``/dev/shm``.
    ``interfaces``: by name. ``rdma``: by adapter and port, ``mlx5_0/1``.
    ``listeners``: the program that listens on the master port, by port.
    ``torchruns``: PyTorch launchers that orch did not start: process id, user id, command line.
    ``names``: addresses of each requested host name: empty if it does not resolve, absent if time ran out.
    ``locks``: locks of abandoned torch extension builds: path, age in seconds. ``kept``: what the workdir holds.
    ``gpus``: one object for each GPU, with the columns of nvidia-smi.
    ``gpu_users``: processes that hold GPU memory: process id, program, MiB as nvidia-smi prints them.
    ``gpu_peers``: pairs of GPUs without access to each other's memory: index, index, nvidia-smi's reason.
    ``gpu_errors``: newest Xid error of each kind and GPU since boot: PCI bus id, Xid number, text.
    ``interpreters``: ``python3``, then the interpreters with torch in the usual places of environments.
    ``mpi``: the node's mpirun.
    ``unanswered``: for each part that gave no answer, the reason.
    """

    system: System | None = of(maybe(System.from_wire), default=None)
    own_name: OwnName | None = of(maybe(OwnName.from_wire), default=None)
    limits: Limits | None = of(maybe(Limits.from_wire), default=None)
    memory: Memory | None = of(maybe(Memory.from_wire), default=None)
    disks: dict[str, Disk] | None = of(maybe(table(Disk.from_wire, 64)), default=None)
    shm: Disk | None = of(maybe(Disk.from_wire), default=None)
    variables: Variables | None = of(maybe(Variables.from_wire), default=None)
    interfaces: dict[str, Interface] | None = of(maybe(table(Interface.from_wire, key=INTERFACE)), default=None)
    listeners: dict[str, str] | None = of(maybe(table(text(), 64, key=word("[0-9]{1,5}"))), default=None)
    torchruns: tuple[tuple[int, int, str], ...] | None = of(
        maybe(many(row(whole(), whole(), text()))), default=None
    )
    home: Home | None = of(maybe(Home.from_wire), default=None)
    names: dict[str, tuple[str, ...]] | None = of(maybe(table(many(ADDRESS), 65536)), default=None)
    timekeeping: Timekeeping | None = of(maybe(Timekeeping.from_wire), default=None)
    logout: Logout | None = of(maybe(Logout.from_wire), default=None)
    rdma: dict[str, RdmaPort] | None = of(maybe(table(RdmaPort.from_wire)), default=None)
    locks: tuple[tuple[str, float], ...] | None = of(maybe(many(row(PATH, number()))), default=None)
    kept: StoredThere | None = of(maybe(StoredThere.from_wire), default=None)
    gpus: tuple[dict[str, str], ...] | None = of(maybe(many(table(text(256), 64), 1024)), default=None)
    gpu_users: tuple[tuple[int, str, str], ...] | None = of(
        maybe(many(row(whole(), text(), text(64)))), default=None
    )
    gpu_peers: tuple[tuple[int, int, str], ...] | None = of(
        maybe(many(row(whole(), whole(), text(64)), 1 << 16)), default=None
    )
    gpu_errors: tuple[tuple[str, int, str], ...] | None = of(
        maybe(many(row(text(64), whole(), text()))), default=None
    )
    versions: Versions | None = of(maybe(Versions.from_wire), default=None)
    torch: Torch | None = of(maybe(Torch.from_wire), default=None)
    interpreters: tuple[Interpreter, ...] | None = of(maybe(many(Interpreter.from_wire, 64)), default=None)
    mpi: MpiFound | None = of(maybe(MpiFound.from_wire), default=None)
    unanswered: dict[str, str] = of(table(text(), 64), default={})

    @classmethod
    def from_wire(cls, value: object, where: str = "message") -> Self:
        """Return the parts that a JSON object holds; raises Misshapen.

        A part of the form ``{"error": reason}`` gave no answer, and its reason goes to ``unanswered``.
        """
        if not isinstance(value, dict):
            fail(where, value, "an object")
        answered = dict(value)
        unanswered = dict(value.get("unanswered") or {})
        for name in cls.FIELDS:
            part = answered.get(name)
            if isinstance(part, dict) and isinstance(part.get("error"), str):
                try:
                    cls.FIELDS[name].shape(part, where)
                except Misshapen:
                    unanswered[name] = answered.pop(name)["error"]
        return super().from_wire(dict(answered, unanswered=unanswered), where)


class Running(Message):
    """The run that holds the node's lock. For another user's run only the ``owner`` is known.

    ``run_id``: empty if unknown. ``owner``: ``user@host``, or a description if the supervisor does not give it.
    ``workload``: its name, ``?`` if unknown. ``age``: seconds since the start, 0 if unknown.
    """

    run_id: str = of(text(100), default="")
    owner: str = of(text(256), default="a supervisor that does not answer")
    workload: str = of(text(), default="?")
    age: float = of(number(), default=0.0)


class NodeFacts(Message):
    """Second frame of the answer to ``AskFacts``.

    ``hostname``: the node's own name. ``home``: the home folder. ``path``: the variable PATH. ``user``: the login.
    ``system``: name of the operating system, ``Linux``. ``python``: the training interpreter.
    ``gpus``: how many GPUs a process started there sees.
    ``addresses``: interface, address and prefix length of each address. ``routes``: interface, network and prefix
    length of each IPv4 route.
    ``ssh_address``: the node's address that the SSH connection came in on; None if it cannot be told.
    ``free_port``: a free port for the rendezvous; None if none was asked for or none is free.
    ``trees``: for each tree of the request, whether it is on the node. ``data``: the same for the data.
    ``running``: the run that holds the lock; None if the node is free.
    ``leftovers``: ids of runs that have processes on the node but no supervisor.
    ``parts``: further facts, those of the request.
    """

    hostname: str = of(text(256))
    home: str = of(PATH)
    path: str = of(text(1 << 17))
    user: str = of(text(256))
    system: str = of(text(64))
    python: Interpreter = of(Interpreter.from_wire)
    gpus: int = of(whole(0, 1024))
    addresses: tuple[tuple[str, str, int], ...] = of(ADDRESSES)
    routes: tuple[tuple[str, str, int], ...] = of(ADDRESSES)
    ssh_address: str | None = of(maybe(ADDRESS))
    free_port: int | None = of(maybe(PORT))
    trees: tuple[bool, ...] = of(many(flag))
    data: tuple[bool, ...] = of(many(flag), default=())
    running: Running | None = of(maybe(Running.from_wire))
    leftovers: tuple[str, ...] = of(many(text(256)))
    parts: Parts = of(Parts.from_wire)
