"""What a node is asked about itself before a run, and what it answers.

The verb ``facts`` answers with ``Clock``, then ``NodeFacts``; with ``probe`` it goes on as ``probe.py`` says.
"""

from __future__ import annotations

from .message import Message, of
from .shapes import Misshapen, fail, flag, many, maybe, number, row, table, text, whole, word
from .terms import ADDRESS, ADDRESSES, BYTES, INTERFACE, PATH, PORT, TIME, TREE_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from typing_extensions import Self

LIMIT = row(maybe(BYTES), maybe(BYTES))


class AskFacts(Message):
    """Tell what this node is. ``parts`` names those of ``Parts`` that are wanted.

    ``trees`` are asked for by workdir, project and id. ``master_port``: the first port to try, ``port_fixed`` the
    only one. ``names`` are host names to resolve, ``packages`` distributions whose versions are wanted.
    """

    VERB: ClassVar[str] = "facts"
    python: str | None = of(maybe(PATH), default=None)
    workdir: str = of(PATH, default="~")
    project: str | None = of(maybe(PATH), default=None)
    parts: tuple[str, ...] = of(many(text(64)), default=())
    trees: tuple[tuple[str, str, str], ...] = of(many(row(PATH, PATH, TREE_ID)), default=())
    master_port: int | None = of(maybe(PORT), default=None)
    port_fixed: bool = of(flag, default=False)
    names: tuple[str, ...] = of(many(text(1024), 65536), default=())
    packages: tuple[str, ...] = of(many(text(256)), default=())
    probe: bool = of(flag, default=False)


class Clock(Message):
    """This node's clock."""

    time: float = of(TIME)


class System(Message):
    """The operating system, and what it is administered with. ``network``: the network namespace."""

    os: str = of(text(256))
    kernel: str = of(text(256))
    machine: str = of(text(64))
    libc: str = of(text(64))
    firewall: str | None = of(maybe(text(64)))
    packager: str | None = of(maybe(text(64)), default=None)
    boot_id: str = of(text(64))
    root: bool = of(flag)
    network: str = of(text(64), default="")


class OwnName(Message):
    """The addresses that the host's own name leads to there."""

    hostname: str = of(text(256))
    addresses: tuple[str, ...] = of(many(ADDRESS))
    error: str | None = of(maybe(text()), default=None)


class Limits(Message):
    """Resource limits of a session, soft and hard; None is unlimited."""

    open_files: tuple[int | None, int | None] = of(LIMIT)
    processes: tuple[int | None, int | None] = of(LIMIT)
    locked_memory: tuple[int | None, int | None] = of(LIMIT)
    ephemeral_ports: tuple[int, int] | None = of(maybe(row(whole(0, 65535), whole(0, 65535))), default=None)


class Memory(Message):
    """Memory in bytes, ``limit`` that of the control group; cores that this session may use; load."""

    total: int = of(BYTES)
    available: int = of(BYTES)
    swap: int = of(BYTES)
    swap_free: int = of(BYTES, default=0)
    limit: int | None = of(maybe(BYTES))
    cores: int = of(whole(1, 100_000))
    load: float = of(number(0, 1e7))


class Disk(Message):
    """The disk of a folder, in bytes. ``there``: the folder exists already."""

    path: str = of(PATH)
    there: bool = of(flag, default=True)
    free: int = of(BYTES)
    size: int = of(BYTES)
    inodes: int | None = of(maybe(BYTES))
    writable: bool = of(flag)
    noexec: bool = of(flag)
    kind: str = of(text(128))


class Variables(Message):
    """Variables of a non-interactive session that training may trip over."""

    drift: dict[str, str] = of(table(text(65536), 4096))


class Interface(Message):
    """A network interface; ``speed`` in Mbit/s."""

    up: bool = of(flag)
    speed: int | None = of(maybe(whole()))
    mtu: int | None = of(maybe(whole(0, 1 << 20)))
    kind: str = of(text(64))


class Home(Message):
    """The home folder, its file system, and who serves it."""

    path: str = of(PATH)
    kind: str = of(text(128))
    host: str = of(text(256))


class Timekeeping(Message):
    """Whether the clock is kept by NTP; None where that is not known."""

    synchronised: bool | None = of(maybe(flag))


class Logout(Message):
    """Whether systemd ends what a session leaves running, and whether a supervisor can leave the session's
    scope."""

    kills: bool = of(flag)
    moves: bool = of(flag, default=False)


class RdmaPort(Message):
    """A port of an RDMA device."""

    state: str = of(text(64))
    rate: str = of(text(128))
    link: str = of(text(64))


class StoredThere(Message):
    """What is kept in the workdir."""

    path: str = of(PATH)
    trees: int = of(whole())
    runs: int = of(whole())
    newest: str | None = of(maybe(TREE_ID), default=None)


class Versions(Message):
    """The training interpreter and the packages in it."""

    executable: str = of(PATH)
    version: str = of(text(64))
    packages: dict[str, str] = of(table(text(256)))
    torchvision_wants: str | None = of(maybe(text(256)))
    path: str = of(PATH)


class Torch(Message):
    """What torch says of itself once it is imported."""

    cuda: str | None = of(maybe(text(64)))
    devices: int = of(whole(0, 100_000))
    backends: tuple[str, ...] = of(many(text(64), 64))


class Parts(Message):
    """Further facts, those that were asked for. ``unanswered``: for each part that gave no answer, why.

    ``disks`` by what they are for, ``interfaces`` and ``rdma`` by name, ``listeners`` (port -> program),
    ``torchruns`` (pid, user id, command line), ``names`` (host name -> addresses), ``locks`` (path, age in
    seconds), ``gpus`` the columns of nvidia-smi, ``gpu_users`` (pid, program, GPU), ``gpu_peers`` (GPU, GPU,
    link), ``gpu_errors`` (GPU, count, what).
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
    unanswered: dict[str, str] = of(table(text(), 64), default={})

    @classmethod
    def from_wire(cls, value: object, where: str = "message") -> Self:
        """The parts of a JSON object; one that is ``{"error": why}`` gave no answer."""
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


class Interpreter(Message):
    """The training interpreter; ``error`` says why it cannot be used, ``torch`` is the version of that."""

    path: str = of(PATH)
    version: str | None = of(maybe(text(64)), default=None)
    torch: str | None = of(maybe(text(64)), default=None)
    error: str | None = of(maybe(text()), default=None)


class Running(Message):
    """The run that holds the host's lock; of another user's run no more than whose it is. ``age`` in seconds."""

    run_id: str = of(text(100), default="")
    owner: str = of(text(256), default="a supervisor that does not answer")
    workload: str = of(text(), default="?")
    age: float = of(number(), default=0.0)


class NodeFacts(Message):
    """What this node is. ``path`` is its PATH, ``gpus`` their number.

    ``addresses`` and ``routes``: interface, address or network, prefix length. ``ssh_address``: where SSH came in.
    ``free_port``: for the master, if asked. ``trees``: which of those asked for are here. ``leftovers``: runs that
    have processes here but no supervisor.
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
    running: Running | None = of(maybe(Running.from_wire))
    leftovers: tuple[str, ...] = of(many(text(256)))
    parts: Parts = of(Parts.from_wire)
