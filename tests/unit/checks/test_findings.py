"""Facts, findings and remedies as values: what they hold, how they merge, how they read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.checks.findings import (
    Finding,
    MakeFolder,
    fail,
    merged,
    most_common,
    warn,
)
from orchestrator.core.checks.remedies import let_in
from orchestrator.protocol.facts import (
    NodeFacts,
    Parts,
    Running,
)
from tests.unit.checks.facts import (
    MEMORY,
    PYTHON,
    SYSTEM,
    node,
)


def test_the_facts_are_those_of_the_answer() -> None:
    parts = Parts(memory=MEMORY)
    running = Running(run_id="r1")
    answer = NodeFacts(
        hostname="gpu1",
        home="/home/u",
        user="u",
        system="Linux",
        path="/bin",
        python=PYTHON,
        gpus=2,
        addresses=(("eth0", "10.0.0.1", 24),),
        routes=(("eth0", "10.1.0.0", 16),),
        ssh_address="::ffff:10.0.0.1",
        free_port=29500,
        trees=(True, False),
        running=running,
        leftovers=("r0",),
        parts=parts,
    )
    known = Facts(
        node="a",
        hostname="gpu1",
        home="/home/u",
        user="u",
        system="Linux",
        path="/bin",
        python=PYTHON,
        gpus=2,
        addresses=(Address("eth0", "10.0.0.1", 24),),
        routes=(Address("eth0", "10.1.0.0", 16),),
        ssh_address="10.0.0.1",
        free_port=29500,
        trees=(True, False),
        running=running,
        leftovers=("r0",),
        parts=parts,
    )
    assert Facts.from_answer("a", answer) == known
    assert Facts.from_answer("a", answer, 1.5, "hello") == replace(known, clock_offset=1.5, noise="hello")
    for address in ("10.0.0.1", "fd00::1", "::ffff:abcd", None):
        assert Facts.from_answer("a", answer.replace(ssh_address=address)).ssh_address == address


def test_a_leading_tilde_is_the_nodes_home() -> None:
    for path, found in {
        "~": "/home/u",
        "~/x": "/home/u/x",
        "/tmp/~": "/tmp/~",
        "~v/x": "~v/x",
        "x/~/y": "x/~/y",
    }.items():
        assert node().expand(path) == found


def test_a_finding_in_one_line() -> None:
    assert str(Finding(("a", "b"), "warn", "what", "remedy")) == "a, b: what → remedy"
    assert str(Finding(("a", "b"), "warn", "what", "", pair=True)) == "a -> b: what"
    assert fail("a", "what", "remedy", MakeFolder("/x")) == Finding(
        ("a",), "fail", "what", "remedy", mend=MakeFolder("/x")
    )
    assert warn("a", "what", "remedy", MakeFolder("/x")) == Finding(
        ("a",), "warn", "what", "remedy", mend=MakeFolder("/x")
    )


def test_findings_merge_if_only_their_nodes_differ() -> None:
    one = Finding(("a",), "warn", "what", "remedy", "load", mend=MakeFolder("/x"))
    pair = Finding(("a", "b"), "warn", "what", "remedy", "load", pair=True)
    apart = [
        one,
        replace(one, severity="fail"),
        replace(one, what="other"),
        replace(one, remedy="other"),
        pair,
        replace(pair, nodes=("b", "a")),
    ]
    assert merged(apart) == tuple(apart)
    assert merged([one, apart[1], replace(one, nodes=("c", "d"))]) == (
        Finding(("a", "c", "d"), "warn", "what", "remedy", "load"),
        apart[1],
    )


def test_the_first_of_equally_frequent_values_is_the_most_common() -> None:
    assert most_common({"a": 1, "b": 2}) == 1
    assert most_common({"a": 1, "b": 2, "c": 2}) == 2
    assert most_common({}) is None


@pytest.mark.parametrize(
    ("tool", "command"),
    [
        ("ufw", "sudo ufw allow from 10.0.0.1 && sudo ufw allow from 10.0.0.2"),
        (
            "firewall-cmd",
            "sudo firewall-cmd --permanent --zone=trusted --add-source=10.0.0.1 && "
            "sudo firewall-cmd --permanent --zone=trusted --add-source=10.0.0.2 && sudo firewall-cmd --reload",
        ),
        (
            "iptables",
            "sudo iptables -I INPUT -p tcp -s 10.0.0.1 -j ACCEPT && "
            "sudo iptables -I INPUT -p tcp -s 10.0.0.2 -j ACCEPT",
        ),
        (
            None,
            "sudo nft insert rule inet filter input ip saddr { 10.0.0.1, 10.0.0.2 } tcp dport 1024-65535 accept",
        ),
    ],
)
def test_the_command_that_opens_each_firewall(tool: str | None, command: str) -> None:
    system, sources = SYSTEM.replace(firewall=tool), ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
    assert let_in(system, sources) == f"open the receiving host's firewall: {command}"
    assert let_in(system.replace(root=True), sources) == (
        f"open the receiving host's firewall: {command.replace('sudo ', '')}"
    )
