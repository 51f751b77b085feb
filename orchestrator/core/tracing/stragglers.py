"""Which rank, GPU or link holds the others up, from samples of all nodes, and why.

Ranks that train in step wait for the slowest in every step. So it is the one that has something to run nearly all
the time while the others sleep. Two windows in a row must say so: each has ``LOOKS`` looks at every rank, in which
two ranks that do the same differ by ``GAP`` once in a thousand windows at the most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.core.run.output import NodeSample
from orchestrator.core.tracing.waiting import ranks as named
from orchestrator.protocol.events import Straggler
from orchestrator.protocol.run import GpuPace, RankPace

LOOKS = 40
# Share of looks in which a rank that holds the others up works, and by how much it exceeds all others.
WORKS, GAP = 0.75, 0.35
# A share of time that is a reason.
OFTEN = 0.15
# Pages a second for which a rank waits for the disk.
SWAPS = 20.0
# A slow link is busy for this share of the time, and this many times slower than half of the others; each of them
# has sent so many bytes in the window.
BUSY, SLOWER, LEAST = 0.5, 3.0, 1 << 20
# The kernel counts busy time in such steps, in seconds.
JIFFY = 0.004
# Looks at a GPU in a window, at the least. One that is busy for less than ``IDLE`` is not the run's.
GPU_LOOKS, IDLE = 8, 0.05
# GPUs that wait for others in a collective of NCCL are busy for this share of the time.
WAITS = 0.85
# A slow GPU's clock, as a share of the others'; and the share of looks in which something slows it down.
CLOCK, SLOWED = 0.8, 0.5
TOP = "orch exec --nodes {node} -- top -bn1 shows what runs there"


@dataclass(frozen=True)
class Seen:
    """What a rank was seen doing in a window of ``seconds``, as shares of the looks or of the time.

    ``works``: it ran, was stopped, or waited for a disk or a core. ``faults``: pages a second.
    """

    node: str
    rank: int
    works: float
    stopped: float
    disk: float
    queued: float
    throttled: float
    faults: float


@dataclass(frozen=True)
class Link:
    """A link in a window: the share of time in which it was busy, and its speed in bytes a second then."""

    source: str
    target: str
    busy: float
    speed: float


@dataclass(frozen=True)
class GpuSeen:
    """A GPU in a window: share of time in use, clock in MHz, shares of looks in which it was too hot, or its power
    limited, and its temperature at the end."""

    node: str
    gpu: int
    busy: float
    clock: float
    hot: float
    limited: float
    celsius: float | None = None

    @property
    def name(self) -> str:
        """The GPU in words."""
        return f"GPU {self.gpu} of {self.node}"


class Stragglers:
    """Tells who holds the others up in one attempt. ``nodes``: all of its nodes."""

    def __init__(self, nodes: Iterable[str]) -> None:
        self.nodes = frozenset(nodes)
        self.began: dict[str, NodeSample] = {}
        self.newest: dict[str, NodeSample] = {}
        # What the last window has told, and what has been told to the user.
        self.last: set[tuple[str, ...]] = set()
        self.told: set[tuple[str, ...]] = set()

    def after(self, sample: NodeSample) -> list[Straggler]:
        """Take a node's sample, and return what two windows have told, once for each straggler."""
        began = self.began.setdefault(sample.node, sample)
        if {each.pid for each in began.ranks} != {each.pid for each in sample.ranks}:
            # The ranks have started, or were started again.
            self.began = {sample.node: sample}
            self.last = set()
        self.newest[sample.node] = sample
        if len(self.nodes) < 2 or not self._complete():
            return []
        seen = [each for node in sorted(self.nodes) for each in _seen(self.began[node], self.newest[node])]
        gpus = [each for node in sorted(self.nodes) for each in _gpus(self.began[node], self.newest[node])]
        found = {**slow_ranks(seen), **slow_gpus(gpus), **slow_links(_links(self.began, self.newest))}
        agreed = [each for key, each in found.items() if key in self.last and key not in self.told]
        self.told |= {key for key in found if key in self.last}
        self.last, self.began = set(found), dict(self.newest)
        return agreed

    def _complete(self) -> bool:
        for node in self.nodes:
            if node not in self.began or node not in self.newest:
                return False
            before = {each.rank: each.looks for each in self.began[node].ranks}
            newest = self.newest[node].ranks
            if not newest or any(each.looks - before.get(each.rank, 0) < LOOKS for each in newest):
                return False
            looks = {each.gpu: each.looks for each in self.began[node].gpu_paces}
            if any(each.looks - looks.get(each.gpu, 0) < GPU_LOOKS for each in self.newest[node].gpu_paces):
                return False
        return True


def _seen(began: NodeSample, newest: NodeSample) -> list[Seen]:
    before = {each.rank: each for each in began.ranks}
    seconds = max(newest.time - began.time, 1e-3)
    return [_part(newest.node, each, before.get(each.rank, each), seconds) for each in newest.ranks]


def _part(node: str, now: RankPace, before: RankPace, seconds: float) -> Seen:
    looks = max(now.looks - before.looks, 1)
    stopped, disk = now.stopped - before.stopped, now.disk - before.disk
    return Seen(
        node=node,
        rank=now.rank,
        works=(now.runs - before.runs + stopped + disk) / looks,
        stopped=stopped / looks,
        disk=disk / looks,
        queued=(now.queued - before.queued) / seconds,
        throttled=(now.throttled - before.throttled) / seconds,
        faults=(now.faults - before.faults) / seconds,
    )


def slow_ranks(seen: Sequence[Seen]) -> dict[tuple[str, ...], Straggler]:
    """Return the ranks that hold the others up: at most one group of them, no more than half of all."""
    ordered = sorted(seen, key=lambda each: -each.works)
    for count in range(1, len(ordered) // 2 + 1):
        slow, others = ordered[:count], ordered[count:]
        if slow[-1].works < WORKS:
            break
        if slow[-1].works - others[0].works >= GAP:
            return {("ranks", *sorted(str(each.rank) for each in slow)): _slow(slow, others)}
    return {}


def _slow(slow: Sequence[Seen], others: Sequence[Seen]) -> Straggler:
    nodes = sorted({each.node for each in slow})
    numbers = sorted(each.rank for each in slow)
    worst = slow[0]
    reason, remedy = _reason(worst, others)
    works = sum(each.works for each in slow) / len(slow)
    where = f" on {nodes[0]}" if len(nodes) == 1 else ""
    some = f"{named(numbers)}{where} {'holds' if len(numbers) == 1 else 'hold'} the others up"
    shares = f"busy {works:.0%} of the time, the others {_span([each.works for each in others])}"
    return Straggler(
        time=0.0,
        node=worst.node,
        ranks=tuple(numbers),
        what=f"{some} ({shares}): {reason}",
        remedy=remedy.format(node=worst.node),
    )


def _span(shares: Sequence[float]) -> str:
    low, high = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return low if low == high else f"{low} to {high}"


def _reason(worst: Seen, others: Sequence[Seen]) -> tuple[str, str]:
    """Return why a rank is slow, and what to do about it."""
    if worst.stopped >= OFTEN:
        return (
            f"it is stopped {worst.stopped:.0%} of the time",
            "something there sends it SIGSTOP, such as cpulimit or a debugger: " + TOP,
        )
    if worst.throttled >= OFTEN:
        return (
            f"its control group gets no processor {worst.throttled:.0%} of the time",
            "raise cpu.max (CPUQuota= of systemd, the cpu limit of the container)",
        )
    if worst.faults >= SWAPS and worst.faults >= 2 * median(each.faults for each in others):
        return (
            f"it waits for {worst.faults:.0f} pages of memory a second from the disk",
            "the host swaps: use less memory there, or stop what else needs it",
        )
    if worst.queued >= OFTEN and worst.queued >= 2 * median(each.queued for each in others):
        return (f"other processes have the cores {worst.queued:.0%} of the time", TOP)
    if worst.disk >= OFTEN:
        return (
            f"it waits for the disk {worst.disk:.0%} of the time",
            "read from a faster disk, or with more workers",
        )
    return (
        "its host is slower, or it has more to do",
        "orch doctor compares the hosts; orch stacks shows what the rank does",
    )


def _gpus(began: NodeSample, newest: NodeSample) -> list[GpuSeen]:
    before = {each.gpu: each for each in began.gpu_paces}
    found = []
    for now in newest.gpu_paces:
        then = before.get(now.gpu, GpuPace(gpu=now.gpu, looks=0, busy=0.0, clock=0.0, hot=0, limited=0))
        looks = max(now.looks - then.looks, 1)
        found.append(
            GpuSeen(
                node=newest.node,
                gpu=now.gpu,
                busy=(now.busy - then.busy) / looks,
                clock=(now.clock - then.clock) / looks,
                hot=(now.hot - then.hot) / looks,
                limited=(now.limited - then.limited) / looks,
                celsius=now.celsius,
            )
        )
    return found


def slow_gpus(gpus: Sequence[GpuSeen]) -> dict[tuple[str, ...], Straggler]:
    """Return the GPUs that are slowed down, or that wait for their own rank while the others wait for them."""
    used = [gpu for gpu in gpus if gpu.busy >= IDLE]
    found: dict[tuple[str, ...], Straggler] = {}
    for gpu in used:
        others = [each for each in used if each is not gpu]
        told = _slowed(gpu, others) or _starved(gpu, others) if others else None
        if told is not None:
            what, remedy = told
            event = Straggler(time=0.0, node=gpu.node, ranks=(), what=what, remedy=remedy)
            found["gpu", gpu.node, str(gpu.gpu)] = event
    # Where most are slow, none of them holds the others up.
    return found if len(found) <= len(used) / 2 else {}


def _slowed(gpu: GpuSeen, others: Sequence[GpuSeen]) -> tuple[str, str] | None:
    usual = median(each.clock for each in others)
    if max(gpu.hot, gpu.limited) < SLOWED or not usual or gpu.clock > CLOCK * usual:
        return None
    clocks = f"{gpu.name} holds the others up: it runs at {gpu.clock:.0f} MHz, the others at {usual:.0f} MHz"
    there = f"nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER on {gpu.node} shows the limits"
    if gpu.hot >= SLOWED:
        heat = "" if gpu.celsius is None else f" ({gpu.celsius:.0f} °C)"
        return f"{clocks}, because it is too hot{heat}", f"look at the cooling; {there}"
    return f"{clocks}, because its power is limited", there


def _starved(gpu: GpuSeen, others: Sequence[GpuSeen]) -> tuple[str, str] | None:
    if min(each.busy for each in others) < WAITS or min(each.busy for each in others) - gpu.busy < GAP:
        return None
    shares = f"{gpu.name} is busy {gpu.busy:.0%} of the time, the others {_span([each.busy for each in others])}"
    remedy = "orch stacks shows what the rank does; often its data loader is too slow"
    return f"{shares}: it waits for its own rank, and the others wait for it", remedy


def _links(began: Mapping[str, NodeSample], newest: Mapping[str, NodeSample]) -> list[Link]:
    owners = {link.local: node for node, sample in newest.items() for link in sample.links}
    found = []
    for node, sample in newest.items():
        before = {(each.local, each.remote): each for each in began[node].links}
        seconds = max(sample.time - began[node].time, 1e-3)
        for link in sample.links:
            earlier = before.get((link.local, link.remote))
            target = owners.get(link.remote)
            if earlier is None or target is None or target == node:
                continue
            busy, sent = link.busy - earlier.busy, link.sent - earlier.sent
            # A connection that was closed takes its share of both away.
            if busy >= 0 and sent >= LEAST:
                found.append(Link(node, target, min(busy / seconds, 1.0), sent / max(busy, JIFFY)))
    return found


def slow_links(links: Sequence[Link]) -> dict[tuple[str, ...], Straggler]:
    """Return the links that are much slower than the others: those of one host, or one between two hosts."""
    slow = [
        link
        for link in links
        if link.busy >= BUSY
        and (rest := [each.speed for each in links if each is not link])
        and median(rest) >= SLOWER * link.speed
    ]
    if not slow:
        return {}
    shared = set.intersection(*({link.source, link.target} for link in slow))
    if not shared:
        return {}
    node = min(shared, key=lambda name: (name != slow[0].source, name))
    others = [link.speed for link in links if link not in slow]
    worst = min(slow, key=lambda link: link.speed)
    between = f"the link between {worst.source} and {worst.target}" if len(slow) == 1 else f"the link of {node}"
    rates = f"{_rate(worst.speed)} from {worst.source} to {worst.target}, {_rate(median(others))} between others"
    event = Straggler(
        time=0.0,
        node=node,
        ranks=(),
        what=f"{between} holds the run up: it is busy {worst.busy:.0%} of the time ({rates})",
        remedy="orch doctor measures the links between all hosts",
    )
    return {("link", between): event}


def _rate(speed: float) -> str:
    """Return a speed in bytes a second as networks are measured: ``9.6 Mbit/s``."""
    bits = speed * 8
    return f"{bits / 1e9:.3g} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:.3g} Mbit/s"
