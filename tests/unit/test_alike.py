"""What is said of several hosts is said once."""

from __future__ import annotations

import pytest

from orchestrator.core.checks.findings import Finding, merged, warn
from orchestrator.core.text.alike import of_errors
from orchestrator.core.text.counted import counted, plural
from orchestrator.errors import ConnectRefused, HostErrors, OrchError


def told(*errors: OrchError) -> list[str]:
    return [str(each) for each in of_errors(errors)]


def refused(host: str, where: str, remedy: str = "start sshd there") -> ConnectRefused:
    return ConnectRefused(f"{where} refused the connection", remedy=remedy, host=host)


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (["root@10.0.0.1:22", "root@10.0.0.2:22", "root@10.0.0.3:22"], "root@10.0.0.[1-3]:22"),
        (["10.0.0.1:22", "10.0.0.2:22", "10.0.0.3:22"], "10.0.0.[1-3]:22"),
        (["root@127.0.0.1:2201", "root@127.0.0.1:2202", "root@127.0.0.1:2203"], "root@127.0.0.1:[2201-2203]"),
        (["me@n1.a.org:22", "me@n2.a.org:22", "me@b.org:22"], "me@{n1.a.org,n2.a.org,b.org}:22"),
        (["root@fd00::1:22", "root@fd00::2:22", "root@fd00::3:22"], "root@fd00::[1-3]:22"),
        (["n1", "n2", "n3"], "n[1-3]"),
    ],
)
def test_errors_that_differ_in_the_address_become_one(where: list[str], line: str) -> None:
    errors = [refused(f"n{number}", each) for number, each in enumerate(where, 1)]
    assert told(*errors) == [f"n[1-3]: {line} refused the connection → start sshd there"]


def test_equal_errors_become_one_and_others_stay() -> None:
    same = [OrchError("no torch", remedy="install it", host=f"gpu{number:02}") for number in range(1, 65)]
    assert told(*same) == ["gpu[01-64]: no torch → install it"]
    thing = [OrchError("a thing", host=host) for host in "ab"]
    several = HostErrors([*thing, OrchError("c", host="b")], 3)
    assert several.others == ("the other host is fine",)
    assert told(several, OrchError("of no host")) == ["a,b: a thing", "b: c", "of no host"]
    # Other words, users or counts are other messages.
    assert len(told(refused("a", "root@10.0.0.1:22"), refused("b", "me@10.0.0.2:22"))) == 2
    assert len(told(OrchError("1 of 2 disks", host="a"), OrchError("2 of 2 disks", host="b"))) == 2


def test_a_command_in_a_remedy_stays_one_that_can_be_typed() -> None:
    errors = [refused(f"n{n}", f"root@10.0.0.{n}:22", f"ssh-copy-id -p 22{n} root@10.0.0.{n}") for n in (1, 2, 3)]
    assert told(*errors) == [
        "n[1-3]: root@10.0.0.[1-3]:22 refused the connection "
        "→ ssh-copy-id -p 221 root@10.0.0.1 (likewise for n[2-3])"
    ]


def test_many_addresses_are_cut() -> None:
    errors = [refused(name, f"root@{name}.{name}{name}.org:22") for name in "abcdef"]
    assert told(*errors)[0].startswith("a,b,c,d,e,f: root@{a.aa.org,b.bb.org,c.cc.org,d.dd.org,...}:22 refused")


def test_findings_that_differ_in_the_name_become_one() -> None:
    found = [warn(f"n{number}", f"n{number} sleeps", "wake it") for number in (1, 2)]
    (one,) = merged(found)
    assert (one.nodes, one.what, one.remedy, one.severity) == (("n1", "n2"), "n[1-2] sleeps", "wake it", "warn")
    pairs = [Finding(pair, "fail", "no way", "", pair=True) for pair in (("a", "b"), ("b", "a"))]
    assert merged(pairs) == tuple(pairs)


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "file", "1 file"),
        (0, "file", "0 files"),
        (2, "entry", "2 entries"),
        (1, "leftover process", "1 leftover process"),
        (2, "leftover process", "2 leftover processes"),
        (1234, "byte", "1,234 bytes"),
        (2, "day", "2 days"),
    ],
)
def test_counted_nouns(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
    assert plural("match") == "matches"
