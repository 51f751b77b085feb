"""Which rank or link holds the others up, from samples of all nodes, and why.

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
from orchestrator.protocol.run import RankPace

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
        found = {**slow_ranks(seen), **slow_links(_links(self.began, self.newest))}
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
