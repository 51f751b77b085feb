"""Checks of pairs of nodes, from what each found out about the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from orchestrator.core.checks.findings import Examined, Finding, usual, warn
from orchestrator.core.checks.remedies import let_in
from orchestrator.protocol.probe import Probe

LOSSY, VERY_LOSSY = 0.05, 0.2
# Fewer bytes than this came back of a stream over a path that carries small messages: large packets get lost.
STALLED = 4 * 1024
SLOW_SHARE, SLOW_RATE = 0.2, 12.5e6
# Bytes a second of a stream that moves, but at less than any network of today.
CRAWL = 1e6
FAR_TIMES, FAR_SECONDS = 5.0, 0.005

Pair = tuple[str, str]


def probed(examined: Examined) -> dict[Pair, Probe]:
    """What is known of each ordered pair."""
    return {(a, b): found for a, others in examined.probes.items() for b, found in others.items()}


def verdict(found: Probe) -> str:
    """How the first address of the other node answered on a port of the system's choice."""
    return str(next(reversed(found.tcp.values()))) if found.tcp else "skipped"


def culprits(bad: set[Pair], known: Iterable[Pair]) -> tuple[list[str], list[Pair]]:
    """Nodes to blame for all their pairs, and the pairs that remain, of those of which something is ``known``.

    A node is blamed if every pair with it is bad, one way or the other, or every pair into it; there must be at
    least two, and some node that is not to blame.
    """
    partners: dict[str, set[str]] = {}
    worse: dict[str, set[str]] = {}
    into: dict[str, set[Pair]] = {}
    for pair in known:
        into.setdefault(pair[1], set()).add(pair)
        for one, other in (pair, pair[::-1]):
            partners.setdefault(one, set()).add(other)
    for pair in bad:
        for one, other in (pair, pair[::-1]):
            worse.setdefault(one, set()).add(other)
    blamed = [
        node
        for node, others in worse.items()
        if (len(others) > 1 and others == partners[node]) or (len(into.get(node, ())) > 1 and into[node] <= bad)
    ]
    if len(blamed) == len(partners):
        # Everybody with everybody: that is no node's own fault.
        return [], sorted(bad)
    return sorted(blamed), sorted(pair for pair in bad if not set(pair) & set(blamed))


def lossy(examined: Examined) -> dict[Pair, float]:
    """The ordered pairs that lose datagrams, though not all of them: a firewall that lets no UDP in loses all."""
    found = {pair: probe.loss for pair, probe in probed(examined).items() if probe.loss is not None}
    return {pair: share for pair, share in found.items() if LOSSY < share < 0.95}


def connections(examined: Examined) -> Iterator[Finding]:
    """Every node reaches every other on ports of the system's choice."""
    probes = probed(examined)
    shaky = lossy(examined)
    bad = {pair for pair, found in probes.items() if verdict(found) not in ("ok", "skipped") and pair not in shaky}
    nodes, pairs = culprits(bad, probes)
    for node in nodes:
        mine = sorted(pair for pair in bad if node in pair)
        others = sorted({other for pair in mine for other in pair} - {node})
        sample = probes[next((pair for pair in mine if pair[1] == node), mine[0])]
        answers = "" if _master_reached(probes, mine) is None else "; the master port alone does not help"
        what = f"{_said(verdict(sample))} TCP ports that ranks open, to and from {_some(others)}{answers}"
        yield Finding((node,), "fail", what, _open(examined, node, others, verdict(sample)))
    for a, b in pairs:
        found = probes[a, b]
        if verdict(found) == "other":
            address = next(reversed(found.tcp))
            what = f"another machine answers at {address}: two machines have one address"
            yield Finding((a, b), "fail", what, "give each its own address, or set fabric_address:", pair=True)
        else:
            what = f"{_said(verdict(found))} TCP ports that ranks open"
            yield Finding((a, b), "fail", what, _open(examined, b, [a], verdict(found)), pair=True)


def _said(found: str) -> str:
    words = {
        "timeout": "a firewall drops",
        "refused": "a firewall rejects",
        "unreachable": "no route leads to the",
    }
    return words.get(found, f"({found}) nothing answers on the")


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _open(examined: Examined, node: str, others: list[str], found: str) -> str:
    if found == "unreachable":
        address = examined.addresses[node]
        return (
            f"see why there: ip route get {address}; or name the right network with interface: or fabric_address:"
        )
    return let_in(examined.system(node), [examined.addresses[other] for other in others])


def _master_reached(probes: Mapping[Pair, Probe], pairs: list[Pair]) -> bool | None:
    return True if any(probes[pair].master == "ok" for pair in pairs) else None


def master(examined: Examined) -> Iterator[Finding]:
    """Every node reaches the master port, where other ports are reached and packets arrive."""
    node = examined.hosts[0].name
    probes = probed(examined)
    shaky = lossy(examined)
    bad = [
        (a, b)
        for (a, b), found in probes.items()
        if found.master not in (None, "ok") and verdict(found) == "ok" and (a, b) not in shaky
    ]
    if bad:
        others = sorted(a for a, _ in bad)
        said = _said(str(probes[bad[0]].master)).removesuffix(" the")
        what = f"{said} the master port for {_some(others)}, other ports are open"
        yield Finding((node,), "fail", what, _open(examined, node, others, str(probes[bad[0]].master)))


def packet_loss(examined: Examined) -> Iterator[Finding]:
    """Packets arrive."""
    shares = lossy(examined)
    yield from _grouped(
        probed(examined),
        set(shares),
        lambda pairs: (
            "fail" if max(shares[pair] for pair in pairs) > VERY_LOSSY else "warn",
            f"{max(shares[pair] for pair in pairs):.0%} of packets and their answers get lost",
        ),
        "look at its cable, its switch port and its interface's error counters: ip -s link",
    )


def stalled(examined: Examined) -> set[Pair]:
    """The ordered pairs over which nothing but small messages passes.

    Not one of a node whose other pairs crawl: of streams that share a narrow link one may starve.
    """
    moved = {pair: found.bulk for pair, found in probed(examined).items() if found.bulk and found.rtt}
    crawling = {pair for pair, (size, seconds) in moved.items() if STALLED <= size < CRAWL * (seconds or 1.0)}
    narrow = {node for pair in crawling for node in pair}
    partners = {node: sum(node in pair for pair in crawling) for node in narrow}
    most = max(partners.values(), default=0)
    blamed = {node for node, count in partners.items() if count == most}
    return {pair for pair, (size, _) in moved.items() if size < STALLED and not blamed & set(pair)}


def full_packets(examined: Examined) -> Iterator[Finding]:
    """Full-size packets arrive, not only small ones: else the first large tensor hangs."""
    shaky = lossy(examined)
    streams = {
        pair: found
        for pair, found in probed(examined).items()
        if found.bulk is not None and found.rtt and pair not in shaky
    }
    bad = stalled(examined) & set(streams)
    mtus = _mtus(examined)
    yield from _grouped(
        streams,
        bad,
        lambda pairs: (
            "fail",
            "small messages pass, full-size packets get lost: the first large tensor would hang"
            + _mtu_text({node for pair in pairs for node in pair}, mtus),
        ),
        "give all interfaces on the way the same MTU; for a trial: ip link set dev IFACE mtu 1400",
    )


def equal_mtus(examined: Examined) -> Iterator[Finding]:
    """All nodes send packets of one size: where a switch on the way does not, only the large ones get lost."""
    if examined.one_machine:
        return
    mtus = _mtus(examined)
    known = {node: mtu for node, mtu in mtus.items() if mtu}
    most = usual(known)
    broken = {node for pair in stalled(examined) for node in pair}
    for node, mtu in known.items():
        if mtu != most and node not in broken:
            yield warn(
                node,
                f"its MTU is {mtu}, most have {most}: packets get through now, by another way they may not",
                f"give {_interfaces(examined)[node]} there the others' MTU",
            )


def _mtus(examined: Examined) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for node, name in _interfaces(examined).items():
        interface = (examined.parts(node).interfaces or {}).get(name)
        found[node] = interface.mtu if interface is not None else None
    return found


def _mtu_text(nodes: set[str], mtus: Mapping[str, int | None]) -> str:
    known = sorted({mtu for node in nodes if (mtu := mtus.get(node))})
    return f" (MTU {', '.join(map(str, known))})" if known else ""


def _interfaces(examined: Examined) -> dict[str, str]:
    found = {}
    for node, address in examined.addresses.items():
        for entry in examined.facts[node].addresses:
            if entry.address == address:
                found[node] = entry.interface
    return found


def throughput(examined: Examined) -> Iterator[Finding]:
    """No link is much slower than the others."""
    passed_over = set(lossy(examined)) | stalled(examined)
    rates = {
        pair: found.bulk[0] / found.bulk[1]
        for pair, found in probed(examined).items()
        if found.bulk is not None and found.bulk[1] and pair not in passed_over
    }
    if not rates:
        return
    # One slow node of three spoils four pairs of six: not the median but the better quarter is the measure.
    good = sorted(rates.values())[len(rates) * 3 // 4]
    bad = {
        pair for pair, rate in rates.items() if rate < SLOW_RATE and (rate < SLOW_SHARE * good or len(rates) < 3)
    }
    yield from _grouped(
        rates,
        bad,
        lambda pairs: (
            "warn",
            f"its link carries {min(rates[pair] for pair in pairs) * 8 / 1e6:.1f} Mbit/s each way, "
            f"others carry {good * 8 / 1e6:.0f}: it holds all ranks back",
        ),
        "look at its link speed (ethtool IFACE) and at its cable, or leave it out with --nodes",
    )


def latency(examined: Examined) -> Iterator[Finding]:
    """No node is much farther away than the others."""
    shaky = lossy(examined)
    turns = {pair: found.rtt for pair, found in probed(examined).items() if found.rtt and pair not in shaky}
    if len(turns) < 3:
        return
    good = sorted(turns.values())[len(turns) // 4]
    bad = {pair for pair, rtt in turns.items() if rtt > FAR_SECONDS and rtt > FAR_TIMES * good}
    yield from _grouped(
        turns,
        bad,
        lambda pairs: (
            "warn",
            f"a round trip takes {max(turns[pair] for pair in pairs) * 1e3:.1f} ms, others take {good * 1e3:.2f}",
        ),
        "is it on another network? name the fast one with interface: or fabric_address:",
    )


def logins(examined: Examined) -> Iterator[Finding]:
    """Every node logs in to every other, where that was asked for."""
    said = {(a, b): word for a, others in examined.logins.items() for b, word in others.items()}
    bad = {pair for pair, word in said.items() if word != "ok"}
    nodes, pairs = culprits(bad, said)
    for node in nodes:
        mine = sorted(pair for pair in bad if node in pair)
        others = sorted({other for pair in mine for other in pair} - {node})
        what = f"no SSH login without a password to and from {_some(others)}: {said[mine[0]]}"
        yield Finding((node,), "fail", what, _let_login(said[mine[0]], examined.addresses.get(mine[0][1], node)))
    for a, b in pairs:
        what = f"no SSH login without a password: {said[a, b]}"
        yield Finding((a, b), "fail", what, _let_login(said[a, b], examined.addresses.get(b, b)), pair=True)


def _let_login(said: str, address: str) -> str:
    if "Host key verification" in said:
        return f"record its key, after comparing it: ssh-keyscan {address} >> ~/.ssh/known_hosts"
    if "cannot be started" in said:
        return "install an SSH client there: apt install openssh-client, or dnf install openssh-clients"
    return f"there: ssh-keygen -t ed25519 (if it has no key), then ssh-copy-id {address}"


def _grouped(
    known: Iterable[Pair], bad: set[Pair], tell: Callable[[list[Pair]], tuple[str, str]], remedy: str
) -> Iterator[Finding]:
    """One finding for each node to blame, and one for each pair that no node explains, whichever way it goes."""
    nodes, pairs = culprits(bad, known)
    for node in nodes:
        severity, what = tell([pair for pair in bad if node in pair])
        yield Finding((node,), severity, what, remedy)
    told: set[frozenset[str]] = set()
    for pair in pairs:
        if frozenset(pair) not in told:
            told.add(frozenset(pair))
            severity, what = tell([each for each in pairs if set(each) == set(pair)])
            yield Finding(pair, severity, what, remedy, pair=True)
