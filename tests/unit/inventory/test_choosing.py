"""Which hosts take part in a run, and which of them is the master."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.inventory.choosing import chosen
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.target import Target
from orchestrator.errors import UsageError

INVENTORY = parse_inventory("""
hosts:
  a: {address: 10.0.0.1, gpus: 4}
  b: {address: b.lab, fabric_address: 10.9.0.2, gpus: 2}
  c: {address: 10.0.0.3}
  d: {address: 10.0.0.4}
spares: [d]
""")


def names(**options: str) -> str:
    """Return the hosts that the options choose, each with the GPUs it is limited to."""
    found = chosen(INVENTORY, Target(Path("hosts.yaml"), **options))
    return " ".join(f"{h.name}:{h.env['CUDA_VISIBLE_DEVICES']}" if h.env else h.name for h in found)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "a b c"),
        ({"master": "b"}, "b a c"),
        ({"master": "c"}, "c a b"),
        ({"master": "10.0.0.3"}, "c a b"),
        ({"master": "b.lab"}, "b a c"),
        ({"master": "10.9.0.2"}, "b a c"),
        ({"master": "c", "nodes": "2"}, "c a"),
        ({"master": "c", "nodes": "b,c"}, "c b"),
        ({"master": "d", "nodes": "a,d"}, "d a"),
        ({"include": "b@a"}, "a b"),
        ({"include": "a:0,2@b:1"}, "a:0,2 b:1"),
        ({"include": "a:2,0,2", "master": "a"}, "a:0,2"),
        ({"include": "c:5"}, "c:5"),
        ({"exclude": "a"}, "b c"),
        ({"exclude": "a:0@b:0,1"}, "a:1,2,3 c"),
        ({"exclude": "a", "nodes": "1"}, "b"),
        ({"exclude": "b", "nodes": "2", "master": "c"}, "c a"),
    ],
)
def test_the_options_choose_hosts(options: dict[str, str], expected: str) -> None:
    assert names(**options) == expected


def test_a_host_with_few_gpus_runs_a_process_for_each() -> None:
    a, c = chosen(INVENTORY, Target(Path("hosts.yaml"), include="a:1,3@c"))
    assert (a.nproc, c.nproc, c.env) == (2, None, {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"master": "z"}, "--master z: no host has this name or address → known: a, b, c, d"),
        ({"master": "10.0.0.9"}, "--master 10.0.0.9: no host has this name or address → known: a, b, c, d"),
        (
            {"master": "127.0.0.1"},
            "--master 127.0.0.1: every host means itself by this address → "
            "leave it out: orch finds an address of the first host that all others reach",
        ),
        (
            {"master": "d"},
            "--master d: d takes no part in this run, which has a, b, c → "
            "name it with --nodes, too, or another master",
        ),
        (
            {"master": "a", "nodes": "b,c"},
            "--master a: a takes no part in this run, which has b, c → name it with --nodes, too, or another master",
        ),
        ({"include": "a", "nodes": "1"}, "--include and --nodes exclude each other → leave one of them out"),
        ({"include": "a", "exclude": "b"}, "--include and --exclude exclude each other → leave one of them out"),
        ({"include": "aa"}, "--include 'aa': no host has this name → did you mean a?"),
        ({"exclude": "zz"}, "--exclude 'zz': no host has this name → known: a, b, c, d"),
        ({"include": "a:4"}, "--include a:4: a has 4 GPUs, counted from 0"),
        ({"exclude": "b:2"}, "--exclude b:2: b has 2 GPUs, counted from 0"),
        (
            {"exclude": "c:0"},
            "--exclude c:0: the number of its GPUs is not known here → "
            "set gpus: for c in the hosts file, or name those to use with --include",
        ),
        ({"exclude": "a@b@c@d"}, "--exclude leaves no host → exclude fewer"),
        *(
            (
                {"include": text},
                f"--include {text!r}: expected HOST[:GPU,...][@HOST...], such as node1@node2:0,2 → "
                "to choose whole hosts: --nodes node1,node2",
            )
            for text in ("a@", "a:", "a:x", ":0", "a:-1", "a:0,,1")
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_one_line(options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        names(**options)
    assert str(error.value) == said
