"""The exact findings about pairs of nodes, for probes at the limits of each check and just beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.checks import pairs
from orchestrator.core.checks.findings import (
    Examined,
)
from orchestrator.core.checks.pairs import culprits, tcp_result
from orchestrator.protocol.probe import Probe
from tests.unit.checks.facts import (
    ETHERNET,
    examined,
    node,
    told,
)

# ---- pairs of nodes

WELL = Probe(tcp={"10.0.0.0": "ok"}, rtt=1e-4, loss=0.0, bulk=(100_000_000, 1.0))


def linked(names: str, /, usual: Probe = WELL, **changed: Mapping[str, Any]) -> Examined:
    """Return nodes of one letter each whose pairs are well but for those changed: ``ab={"loss": 0.1}``."""
    probes = {a: {b: usual.replace(**changed.get(a + b, {})) for b in names if b != a} for a in names}
    return examined(*(node(name, interfaces={"eth0": ETHERNET}) for name in names), probes=probes)


def tcp(result: str, **others: Any) -> dict[str, Any]:
    return {"tcp": {"10.0.0.9": result}, **others}


def test_the_first_address_of_a_node_comes_last_and_counts() -> None:
    assert tcp_result(Probe(tcp={"10.1.0.1": "timeout", "10.0.0.1": "ok"})) == "ok"
    assert tcp_result(Probe()) == "skipped"


@pytest.mark.parametrize(
    ("known", "bad", "blamed", "rest"),
    [
        # Two nodes: neither is to blame alone.
        ("ab ba", "ab ba", "", "ab ba"),
        # All partners of b, some in one direction and some in the other.
        ("ab ac ba bc ca cb", "ab bc", "b", ""),
        # All pairs into b, though b reaches d.
        ("ab cb bd ad cd da", "ab cb", "b", ""),
        # All pairs into b are one, and c is well.
        ("ab bc ca ac", "ab", "", "ab"),
        # a has no other partner, so nothing tells who of the two is at fault.
        ("ab ba bc cb", "ab", "", "ab"),
        # Two of three partners are not all.
        ("ab ba ac ca ad da bc cb bd db cd dc", "ab bc", "", "ab bc"),
        # A blamed node explains its pairs, and the rest stay.
        ("ab ba ac ca ad da bc cb bd db cd dc", "ab cb db cd", "b", "cd"),
        ("ab ba bc cb ac ca", "", "", ""),
        # A node is not to blame if every node is.
        ("ab ba bc cb ac ca", "ab bc ac", "", "ab ac bc"),
    ],
)
def test_whom_bad_pairs_blame(known: str, bad: str, blamed: str, rest: str) -> None:
    def split(text: str) -> list[tuple[str, str]]:
        return [(word[0], word[1]) for word in text.split()]

    assert culprits(set(split(bad)), split(known)) == (list(blamed), split(rest))


NFT = "open the receiving host's firewall: sudo nft insert rule inet filter input ip saddr {{ {} }} tcp dport {}"
RANGE = "1024-65535 accept"


@pytest.mark.parametrize(
    ("names", "changed", "lines"),
    [
        ("abc", {"ab": {"tcp": {}}, "cb": tcp("ok")}, []),
        (
            "abc",
            {"ab": tcp("timeout"), "cb": tcp("timeout")},
            [
                "fail b: a firewall drops connections on the TCP ports that ranks open, to and from a, c → "
                + NFT.format("10.0.0.1, 10.0.0.3", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("refused", master="ok"), "cb": tcp("refused")},
            [
                "fail b: a firewall rejects connections on the TCP ports that ranks open, to and from a, c; "
                "an open master port is not enough → " + NFT.format("10.0.0.1, 10.0.0.3", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("unreachable"), "cb": tcp("unreachable")},
            [
                "fail b: no route leads to the TCP ports that ranks open, to and from a, c → "
                "check the route on the other host: ip route get 10.0.0.2; or set interface: or fabric_address:"
            ],
        ),
        (
            "abc",
            {"ab": tcp("No buffer space"), "cb": tcp("No buffer space")},
            [
                "fail b: nothing answers (No buffer space) on the TCP ports that ranks open, to and from a, c → "
                + NFT.format("10.0.0.1, 10.0.0.3", RANGE)
            ],
        ),
        # What is said of a node is what those found who dialled it, if any did in vain.
        (
            "abc",
            {"ab": tcp("timeout"), "ca": tcp("refused")},
            [
                "fail a: a firewall rejects connections on the TCP ports that ranks open, to and from b, c → "
                + NFT.format("10.0.0.2, 10.0.0.3", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("timeout"), "ac": tcp("refused")},
            [
                "fail a: a firewall drops connections on the TCP ports that ranks open, to and from b, c → "
                + NFT.format("10.0.0.2, 10.0.0.3", RANGE)
            ],
        ),
        (
            "abcdef",
            {pair: tcp("timeout") for pair in ("af", "bf", "cf", "df", "ef")},
            [
                "fail f: a firewall drops connections on the TCP ports that ranks open, to and from a, b, c "
                "and 2 more → " + NFT.format("10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5", RANGE)
            ],
        ),
        (
            "abcde",
            {pair: tcp("timeout") for pair in ("ae", "be", "ce", "de")},
            [
                "fail e: a firewall drops connections on the TCP ports that ranks open, to and from a, b, c, d → "
                + NFT.format("10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("timeout")},
            [
                "fail a -> b: a firewall drops connections on the TCP ports that ranks open → "
                + NFT.format("10.0.0.1", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("unreachable")},
            [
                "fail a -> b: no route leads to the TCP ports that ranks open → "
                "check the route on the other host: ip route get 10.0.0.2; or set interface: or fabric_address:"
            ],
        ),
        (
            "abc",
            {"ab": tcp("other")},
            [
                "fail a -> b: another machine answers at 10.0.0.9: two machines have the same address → "
                "give each machine its own address, or set fabric_address:"
            ],
        ),
        # A pair that loses packets is left to the check of packet loss.
        ("abc", {"ab": tcp("timeout", loss=0.5)}, []),
    ],
)
def test_connections(names: str, changed: dict[str, Any], lines: list[str]) -> None:
    assert told(pairs.connections, linked(names, **changed)) == lines


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({"ba": {"master": "ok"}, "ca": {"master": None}}, []),
        (
            {"ba": {"master": "timeout"}, "ca": {"master": "refused"}},
            [
                "fail a: a firewall drops connections on the master port from b, c; other ports are open → "
                + NFT.format("10.0.0.2, 10.0.0.3", RANGE)
            ],
        ),
        (
            {"ca": {"master": "unreachable"}},
            [
                "fail a: no route leads to the master port from c; other ports are open → "
                "check the route on the other host: ip route get 10.0.0.1; or set interface: or fabric_address:"
            ],
        ),
        ({"ba": tcp("timeout", master="timeout"), "ca": {"master": "timeout", "loss": 0.5}}, []),
    ],
)
def test_the_way_to_the_master_port(changed: dict[str, Any], lines: list[str]) -> None:
    assert told(pairs.master, linked("abc", **changed)) == lines


LOST = "of packets or their answers are lost → check the cable, the switch port and the interface's error counters"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"ab": {"loss": 0.05}}, None),
        ({"ab": {"loss": 0.06}}, f"warn a -> b: 6% {LOST}: ip -s link"),
        ({"ab": {"loss": 0.2}}, f"warn a -> b: 20% {LOST}: ip -s link"),
        ({"ab": {"loss": 0.21}}, f"fail a -> b: 21% {LOST}: ip -s link"),
        ({"ab": {"loss": 0.94}}, f"fail a -> b: 94% {LOST}: ip -s link"),
        # A firewall drops nearly all.
        ({"ab": {"loss": 0.95}}, None),
        # Both directions are one finding, and so are all pairs of one node; the worst is told.
        ({"ab": {"loss": 0.1}, "ba": {"loss": 0.12}}, f"warn a -> b: 12% {LOST}: ip -s link"),
        ({"ab": {"loss": 0.1}, "cb": {"loss": 0.3}}, f"fail b: 30% {LOST}: ip -s link"),
    ],
)
def test_packet_loss(changed: dict[str, Any], line: str | None) -> None:
    assert told(pairs.packet_loss, linked("abcd" if line and "->" in line else "abc", **changed)) == (
        [] if line is None else [line]
    )


SAME_MTU = "set the same MTU on all interfaces on the way; to try a smaller one: ip link set dev IFACE mtu 1400"
SMALL = "small messages arrive but full-size packets are lost: the first large tensor would hang"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"ab": {"bulk": (4096, 2.0)}}, None),
        ({"ab": {"bulk": (4095, 2.0)}}, f"fail a -> b: {SMALL} (MTU 1500) → {SAME_MTU}"),
        # Without a round trip, nothing arrives at all; lost datagrams are another check's.
        ({"ab": {"bulk": (0, 2.0), "rtt": None}}, None),
        ({"ab": {"bulk": (0, 2.0), "loss": 0.5}}, None),
        ({"ab": {"bulk": None}}, None),
        ({"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (0, 2.0)}}, f"fail b: {SMALL} (MTU 1500) → {SAME_MTU}"),
        # Of streams that share a narrow link, one may starve; at 1 MB/s a link is not narrow.
        ({"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (1_999_999, 2.0)}}, None),
        (
            {"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (2_000_000, 2.0)}},
            f"fail a -> b: {SMALL} (MTU 1500) → {SAME_MTU}",
        ),
        ({"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (4096, 2.0)}}, None),
        ({"ab": {"bulk": (4096, 2.0)}, "cd": {"bulk": (5000, 2.0)}, "dc": {"bulk": (5000, 2.0)}}, None),
        # The node with the most narrow links is the narrow one: c, not b.
        (
            {"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (5000, 2.0)}, "cd": {"bulk": (5000, 2.0)}},
            f"fail a -> b: {SMALL} (MTU 1500) → {SAME_MTU}",
        ),
    ],
)
def test_full_packets(changed: dict[str, Any], line: str | None) -> None:
    assert told(pairs.full_packets, linked("abc" if line and "fail b:" in line else "abcd", **changed)) == (
        [] if line is None else [line]
    )


def with_mtus(seen: Examined, **mtus: int | None) -> Examined:
    facts = {
        name: replace(
            known, parts=known.parts.replace(interfaces={"eth0": ETHERNET.replace(mtu=mtus.get(name, 1500))})
        )
        for name, known in seen.facts.items()
    }
    return replace(seen, facts=facts)


def test_mtus_that_differ_are_told() -> None:
    stalled = linked("abc", ab={"bulk": (0, 2.0)})
    assert told(pairs.full_packets, with_mtus(stalled, a=9000)) == [
        f"fail a -> b: {SMALL} (MTU 1500, 9000) → {SAME_MTU}"
    ]
    assert told(pairs.full_packets, with_mtus(stalled, a=None, b=None)) == [f"fail a -> b: {SMALL} → {SAME_MTU}"]
    unknown = replace(stalled, facts={name: node(name) for name in "abc"})
    assert told(pairs.full_packets, unknown) == [f"fail a -> b: {SMALL} → {SAME_MTU}"]
    mixed = with_mtus(linked("abcd"), b=9000, c=None)
    line = (
        "warn b: the MTU is 9000; most hosts have 1500: large packets may be lost on another path → "
        "set the MTU of eth0 there to that of the other hosts"
    )
    assert told(pairs.equal_mtus, mixed) == [line]
    assert told(pairs.equal_mtus, replace(mixed, one_machine=True)) == []
    # A pair over which large packets are lost says more than the difference does.
    assert told(pairs.equal_mtus, with_mtus(stalled, a=9000)) == []


LINK = (
    "each way, others carry {}: the slow link holds all ranks back → check the link speed (ethtool IFACE) and the "
)
CABLE_OR = "cable, or leave the host out with --nodes"


@pytest.mark.parametrize(
    ("names", "changed", "line"),
    [
        # A link is slow below a fifth of the others' rate and below 100 Mbit/s.
        ("abcd", {"ab": {"bulk": (12_500_000, 1.0)}}, None),
        (
            "abcd",
            {"ab": {"bulk": (24_999_998, 2.0)}, "ba": {"bulk": (6_250_000, 1.0)}},
            "warn a -> b: the link carries 50.0 Mbit/s " + LINK.format(800) + CABLE_OR,
        ),
        (
            "abc",
            {"ab": {"bulk": (2_000_000, 1.0)}, "cb": {"bulk": (1_000_000, 1.0)}},
            "warn b: the link carries 8.0 Mbit/s " + LINK.format(800) + CABLE_OR,
        ),
        (
            "abc",
            {pair: {"bulk": (2_000_000, 1.0)} for pair in ("ab", "ba", "bc", "cb")},
            "warn b: the link carries 16.0 Mbit/s " + LINK.format(800) + CABLE_OR,
        ),
        ("abcd", {"ab": {"bulk": (1_000_000, 1.0), "loss": 0.1}}, None),
        ("abcd", {"ab": {"bulk": (0, 1.0)}}, None),
        ("abcd", {"ab": {"bulk": (0, 0.0)}}, None),
        # Two nodes have no others to compare with.
        ("ab", {"ab": {"bulk": (12_500_000, 1.0)}, "ba": {"bulk": (12_500_000, 1.0)}}, None),
        (
            "ab",
            {"ab": {"bulk": (12_000_000, 1.0)}, "ba": {"bulk": (12_000_000, 1.0)}},
            "warn a -> b: the link carries 96.0 Mbit/s " + LINK.format(96) + CABLE_OR,
        ),
    ],
)
def test_throughput(names: str, changed: dict[str, Any], line: str | None) -> None:
    assert told(pairs.throughput, linked(names, **changed)) == ([] if line is None else [line])


def test_links_that_are_all_slow_are_compared_with_each_other() -> None:
    slow = WELL.replace(bulk=(10_000_000, 1.0))
    for rate, found in ((2_000_000, 0), (1_999_999, 1)):
        assert len(told(pairs.throughput, linked("abcd", slow, ab={"bulk": (rate, 1.0)}))) == found
    two = linked("abc", slow)
    three = replace(two, probes={"a": {"b": slow, "c": slow}, "b": {"c": slow}})
    assert told(pairs.throughput, three) == []


FAST_NETWORK = "if the host is on another network, name the fast one with interface: or fabric_address:"


@pytest.mark.parametrize(
    ("usual", "changed", "line"),
    [
        # A round trip is long above 5 ms and above five times that of the others.
        (1e-4, {"ab": {"rtt": 0.005}}, None),
        (
            1e-4,
            {"ab": {"rtt": 0.0051}},
            f"warn a -> b: a round trip takes 5.1 ms, others 0.10 ms → {FAST_NETWORK}",
        ),
        (0.002, {"ab": {"rtt": 0.01}}, None),
        (
            0.002,
            {"ab": {"rtt": 0.0101}},
            f"warn a -> b: a round trip takes 10.1 ms, others 2.00 ms → {FAST_NETWORK}",
        ),
        (1e-4, {"ab": {"rtt": 0.001}}, None),
        (1e-4, {"ab": {"rtt": 0.9, "loss": 0.1}}, None),
        (
            1e-4,
            {"ab": {"rtt": 0.03}, "ba": {"rtt": 0.04}},
            f"warn a -> b: a round trip takes 40.0 ms, others 0.10 ms → {FAST_NETWORK}",
        ),
    ],
)
def test_latency(usual: float, changed: dict[str, Any], line: str | None) -> None:
    assert told(pairs.latency, linked("abcd", WELL.replace(rtt=usual), **changed)) == (
        [] if line is None else [line]
    )


def test_round_trips_are_compared_from_three_on() -> None:
    far, near = WELL.replace(rtt=0.5), WELL
    seen = linked("abc")
    assert told(pairs.latency, replace(seen, probes={"a": {"b": far, "c": near}})) == []
    assert told(pairs.latency, replace(seen, probes={"a": {"b": far, "c": near}, "b": {"c": near}})) == [
        f"warn a -> b: a round trip takes 500.0 ms, others 0.10 ms → {FAST_NETWORK}"
    ]


REFUSED = "u@10.0.0.2: Permission denied (publickey)."
BETWEEN = "run: orch keys --between"


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ({}, None),
        ({"ab": REFUSED}, f"a -> b: SSH without a password fails: {REFUSED} → {BETWEEN}"),
        (
            {"ab": "Host key verification failed."},
            "a -> b: SSH without a password fails: Host key verification failed. → compare the key, then record it "
            "where the login starts: ssh-keyscan 10.0.0.2 >> ~/.ssh/known_hosts",
        ),
        (
            {"ab": "ssh cannot be started: no such file"},
            "a -> b: SSH without a password fails: ssh cannot be started: no such file → install SSH where the "
            "login starts: apt install openssh-client, or dnf install openssh-clients",
        ),
        (
            {"ab": REFUSED, "cb": "Host key verification failed."},
            f"b: SSH without a password fails to and from a, c: {REFUSED} → {BETWEEN}",
        ),
        (
            {"ba": REFUSED, "bc": "Host key verification failed."},
            f"b: SSH without a password fails to and from a, c: {REFUSED} → {BETWEEN}",
        ),
    ],
)
def test_logins(bad: dict[str, str], line: str | None) -> None:
    logins = {a: {b: bad.get(a + b, "ok") for b in "abc" if a != b} for a in "abc"}
    seen = replace(linked("abc"), logins=logins)
    assert told(pairs.logins, seen) == ([] if line is None else [f"fail {line}"])


def test_a_host_without_a_known_address_is_named_in_the_remedy() -> None:
    seen = replace(linked("ab"), addresses={}, logins={"a": {"b": "Host key verification failed."}})
    (line,) = told(pairs.logins, seen)
    assert line.endswith("ssh-keyscan b >> ~/.ssh/known_hosts")


# ---- what must agree
