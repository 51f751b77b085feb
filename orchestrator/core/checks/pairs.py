"""Checks of pairs of nodes, from the probes between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from orchestrator.core.checks.findings import Examined, Finding, most_common, warn
from orchestrator.core.checks.remedies import let_in
from orchestrator.protocol.probe import Probe

LOSSY, VERY_LOSSY = 0.05, 0.2
# A stream that returns fewer bytes than this over a path that carries small messages loses large packets.
STALLED = 4 * 1024
SLOW_SHARE, SLOW_RATE = 0.2, 12.5e6
# Bytes per second below which a stream that moves is slower than any present network.
CRAWL = 1e6
FAR_TIMES, FAR_SECONDS = 5.0, 0.005

Pair = tuple[str, str]


def probed(examined: Examined) -> dict[Pair, Probe]:
    """Return the probe of each ordered pair."""
    return {(a, b): found for a, others in examined.probes.items() for b, found in others.items()}


def tcp_result(found: Probe) -> str:
    """Return how the other node's first address answered on a port of the system's choice, or ``skipped``."""
    return str(next(reversed(found.tcp.values()))) if found.tcp else "skipped"


def culprits(bad: set[Pair], known: Iterable[Pair]) -> tuple[list[str], list[Pair]]:
    """Return the nodes to blame for their bad pairs, and the bad pairs that no such node explains.

    ``known`` are all pairs with a result. A node is blamed if its pairs with every partner are bad in at least
    one direction, or if all pairs into it are bad; either takes two partners or pairs. If every node qualifies,
    none is blamed.
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
        # If every node qualifies, the fault is no single node's.
        return [], sorted(bad)
    return sorted(blamed), sorted(pair for pair in bad if not set(pair) & set(blamed))


def lossy(examined: Examined) -> dict[Pair, float]:
    """Return the share of lost datagrams (0 to 1) of each ordered pair that loses some.

    Pairs that lose nearly all are left out: a firewall drops UDP there.
    """
    found = {pair: probe.loss for pair, probe in probed(examined).items() if probe.loss is not None}
    return {pair: share for pair, share in found.items() if LOSSY < share < 0.95}


def connections(examined: Examined) -> Iterator[Finding]:
    """Check that every node can connect to every other on ports chosen by the system."""
    probes = probed(examined)
    shaky = lossy(examined)
    bad = {
        pair for pair, found in probes.items() if tcp_result(found) not in ("ok", "skipped") and pair not in shaky
    }
    nodes, pairs = culprits(bad, probes)
    for node in nodes:
        mine = sorted(pair for pair in bad if node in pair)
        others = sorted({other for pair in mine for other in pair} - {node})
        sample = probes[next((pair for pair in mine if pair[1] == node), mine[0])]
        answers = "" if _master_reached(probes, mine) is None else "; an open master port is not enough"
        what = (
            f"{_obstacle(tcp_result(sample))} the TCP ports that ranks open, to and from {_some(others)}{answers}"
        )
        yield Finding((node,), "fail", what, _remedy(examined, node, others, tcp_result(sample)))
    for a, b in pairs:
        found = probes[a, b]
        if tcp_result(found) == "other":
            address = next(reversed(found.tcp))
            what = f"another machine answers at {address}: two machines have the same address"
            yield Finding(
                (a, b), "fail", what, "give each machine its own address, or set fabric_address:", pair=True
            )
        else:
            what = f"{_obstacle(tcp_result(found))} the TCP ports that ranks open"
            yield Finding((a, b), "fail", what, _remedy(examined, b, [a], tcp_result(found)), pair=True)


def _obstacle(found: str) -> str:
    words = {
        "timeout": "a firewall drops connections on",
        "refused": "a firewall rejects connections on",
        "unreachable": "no route leads to",
    }
    return words.get(found, f"nothing answers ({found}) on")


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _remedy(examined: Examined, node: str, others: list[str], found: str) -> str:
    if found == "unreachable":
        address = examined.addresses[node]
        return f"check the route on the other host: ip route get {address}; or set interface: or fabric_address:"
    return let_in(examined.system(node), [examined.addresses[other] for other in others])


def _master_reached(probes: Mapping[Pair, Probe], pairs: list[Pair]) -> bool | None:
    return True if any(probes[pair].master == "ok" for pair in pairs) else None


def master(examined: Examined) -> Iterator[Finding]:
    """Check that every node reaches the master port.

    Pairs that lose packets or cannot connect on other ports are left to other checks.
    """
    node = examined.hosts[0].name
    probes = probed(examined)
    shaky = lossy(examined)
    bad = [
        (a, b)
        for (a, b), found in probes.items()
        if found.master not in (None, "ok") and tcp_result(found) == "ok" and (a, b) not in shaky
    ]
    if bad:
        others = sorted(a for a, _ in bad)
        said = _obstacle(str(probes[bad[0]].master))
        what = f"{said} the master port from {_some(others)}; other ports are open"
        yield Finding((node,), "fail", what, _remedy(examined, node, others, str(probes[bad[0]].master)))


def packet_loss(examined: Examined) -> Iterator[Finding]:
    """Check that packets arrive."""
    shares = lossy(examined)
    yield from _grouped(
        probed(examined),
        set(shares),
        lambda pairs: (
            "fail" if max(shares[pair] for pair in pairs) > VERY_LOSSY else "warn",
            f"{max(shares[pair] for pair in pairs):.0%} of packets or their answers are lost",
        ),
        "check the cable, the switch port and the interface's error counters: ip -s link",
    )


def stalled(examined: Examined) -> set[Pair]:
    """Return the ordered pairs over which only small messages pass.

    Pairs of the node with the most crawling streams are left out: of streams that share a narrow link, one may
    starve.
    """
    moved = {pair: found.bulk for pair, found in probed(examined).items() if found.bulk and found.rtt}
    crawling = {pair for pair, (size, seconds) in moved.items() if STALLED <= size < CRAWL * (seconds or 1.0)}
    narrow = {node for pair in crawling for node in pair}
    partners = {node: sum(node in pair for pair in crawling) for node in narrow}
    most = max(partners.values(), default=0)
    blamed = {node for node, count in partners.items() if count == most}
    return {pair for pair, (size, _) in moved.items() if size < STALLED and not blamed & set(pair)}


def full_packets(examined: Examined) -> Iterator[Finding]:
    """Check that full-size packets arrive, not only small ones."""
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
            "small messages arrive but full-size packets are lost: the first large tensor would hang"
            + _mtu_text({node for pair in pairs for node in pair}, mtus),
        ),
        "set the same MTU on all interfaces on the way; to try a smaller one: ip link set dev IFACE mtu 1400",
    )


def equal_mtus(examined: Examined) -> Iterator[Finding]:
    """Check that all nodes have the same MTU: a switch on the way may drop the larger packets of some."""
    if examined.one_machine:
        return
    mtus = _mtus(examined)
    known = {node: mtu for node, mtu in mtus.items() if mtu}
    most = most_common(known)
    broken = {node for pair in stalled(examined) for node in pair}
    for node, mtu in known.items():
        if mtu != most and node not in broken:
            yield warn(
                node,
                f"the MTU is {mtu}; most hosts have {most}: large packets may be lost on another path",
                f"set the MTU of {_interfaces(examined)[node]} there to that of the other hosts",
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
    """Check that no link is much slower than the others."""
    passed_over = set(lossy(examined)) | stalled(examined)
    rates = {
        pair: found.bulk[0] / found.bulk[1]
        for pair, found in probed(examined).items()
        if found.bulk is not None and found.bulk[1] and pair not in passed_over
    }
    if not rates:
        return
    # One slow node of three spoils four pairs of six, so the upper quartile is the reference, not the median.
    good = sorted(rates.values())[len(rates) * 3 // 4]
    bad = {
        pair for pair, rate in rates.items() if rate < SLOW_RATE and (rate < SLOW_SHARE * good or len(rates) < 3)
    }
    yield from _grouped(
        rates,
        bad,
        lambda pairs: (
            "warn",
            f"the link carries {min(rates[pair] for pair in pairs) * 8 / 1e6:.1f} Mbit/s each way, "
            f"others carry {good * 8 / 1e6:.0f}: the slow link holds all ranks back",
        ),
        "check the link speed (ethtool IFACE) and the cable, or leave the host out with --nodes",
    )


def latency(examined: Examined) -> Iterator[Finding]:
    """Check that no round trip takes much longer than the others."""
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
            f"a round trip takes {max(turns[pair] for pair in pairs) * 1e3:.1f} ms, others {good * 1e3:.2f} ms",
        ),
        "if the host is on another network, name the fast one with interface: or fabric_address:",
    )


def logins(examined: Examined) -> Iterator[Finding]:
    """Check that every node can log in to every other, if logins were tried."""
    said = {(a, b): word for a, others in examined.logins.items() for b, word in others.items()}
    bad = {pair for pair, word in said.items() if word != "ok"}
    nodes, pairs = culprits(bad, said)
    for node in nodes:
        mine = sorted(pair for pair in bad if node in pair)
        others = sorted({other for pair in mine for other in pair} - {node})
        what = f"SSH without a password fails to and from {_some(others)}: {said[mine[0]]}"
        yield Finding((node,), "fail", what, _let_login(said[mine[0]], examined.addresses.get(mine[0][1], node)))
    for a, b in pairs:
        what = f"SSH without a password fails: {said[a, b]}"
        yield Finding((a, b), "fail", what, _let_login(said[a, b], examined.addresses.get(b, b)), pair=True)


def _let_login(said: str, address: str) -> str:
    if "Host key verification" in said:
        return (
            f"compare the key, then record it where the login starts: ssh-keyscan {address} >> ~/.ssh/known_hosts"
        )
    if "cannot be started" in said:
        return "install SSH where the login starts: apt install openssh-client, or dnf install openssh-clients"
    return "run: orch keys --between"


def _grouped(
    known: Iterable[Pair], bad: set[Pair], tell: Callable[[list[Pair]], tuple[str, str]], remedy: str
) -> Iterator[Finding]:
    """Yield a finding for each node to blame, and one for each remaining pair, both directions in one."""
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
