"""Transfers: which outputs are fetched within a limit, where data goes and which bytes of it, how trees differ."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.checks.facts import Address
from orchestrator.core.inventory.hosts import DataSource, Host, Outputs
from orchestrator.core.transfer.choice import OfferedFile, choose
from orchestrator.core.transfer.data import Lacking, listen_addresses, parse_data, target_on_node, to_send
from orchestrator.core.transfer.local_tree import Difference, Entry, difference, hash_file, hash_tree
from orchestrator.errors import SyncError


def offered(*files: str) -> list[OfferedFile]:
    """Return files written as ``path`` or ``path:size`` (1 byte if not given), each newer than the one before."""
    split = [file.partition(":") for file in files]
    return [OfferedFile(path, int(size or 1), age) for age, (path, _, size) in enumerate(split, 1)]


def fetched(limit: int, *files: OfferedFile) -> list[str]:
    """Return the paths chosen within ``limit`` bytes, in the order in which they are fetched."""
    return [each.path for each in choose(files, Outputs(max_bytes=limit)).chosen]


# Files from the oldest to the newest, and the newest snapshot among them.
@pytest.mark.parametrize(
    ("files", "newest"),
    [
        # A file is a snapshot if its name or its ending says so.
        (["a.pt", "b.pth", "c.txt"], {"b.pth"}),
        (["a.pt", "out/w.SafeTensors"], {"out/w.SafeTensors"}),
        (["a.pt", "pytorch_model.bin"], {"pytorch_model.bin"}),
        (["a.pt", "my-Snapshot"], {"my-Snapshot"}),
        (["a.pt", "last_ckpt"], {"last_ckpt"}),
        (["a.pt", "a.pt.bak", "a.ptx", "binary"], {"a.pt"}),
        # So is a folder.
        (
            ["checkpoint-10/w", "checkpoint-20/w", "checkpoint-20/sub/o"],
            {"checkpoint-20/w", "checkpoint-20/sub/o"},
        ),
        (["last.ckpt/a", "last.ckpt/b"], {"last.ckpt/a", "last.ckpt/b"}),
        (["global_step5/a", "global_step10/b"], {"global_step10/b"}),
        (["step_5/a", "step_10/b"], {"step_10/b"}),
        (["run/1/step_5/a", "run/2/step_5/b"], {"run/2/step_5/b"}),
        (["step_x/a", "global_step/a", "steps/a"], set()),
        # All files in such a folder belong to it, reports as well.
        (["checkpoint-10/w", "checkpoint-10/state.json"], {"checkpoint-10/w", "checkpoint-10/state.json"}),
        # A folder with a number or an ending is one snapshot, even if names in it are counted.
        (["step_1/epoch1/a", "step_1/epoch2/b"], {"step_1/epoch1/a", "step_1/epoch2/b"}),
        (["last.ckpt/epoch1/a", "last.ckpt/epoch2/b"], {"last.ckpt/epoch1/a", "last.ckpt/epoch2/b"}),
        # A folder without a number is one snapshot unless names in it are counted.
        (["checkpoint/model.pt", "checkpoint/optim.pt"], {"checkpoint/model.pt", "checkpoint/optim.pt"}),
        (["snapshot/.metadata", "snapshot/__0_0.distcp"], {"snapshot/.metadata", "snapshot/__0_0.distcp"}),
        (["checkpoints/epoch=1.ckpt", "checkpoints/epoch=2.ckpt"], {"checkpoints/epoch=2.ckpt"}),
        (["checkpoints/500/a", "checkpoints/1000/b"], {"checkpoints/1000/b"}),
        (["checkpoints/iter_5/a", "checkpoints/iteration-6/b"], {"checkpoints/iteration-6/b"}),
        (["ckpts/x/epoch3/a", "ckpts/x/epoch4/a", "ckpts/x/epoch4/b"], {"ckpts/x/epoch4/a", "ckpts/x/epoch4/b"}),
        (["ckpt/snapshot/a", "ckpt/snapshot/b"], {"ckpt/snapshot/a", "ckpt/snapshot/b"}),
        # Other files beside counted snapshots, such as DeepSpeed's "latest", belong to none.
        (["ckpts/global_step1/a", "ckpts/global_step2/a", "ckpts/latest"], {"ckpts/global_step2/a"}),
        # A report is no snapshot whatever its name says.
        (["checkpoint.log", "snapshot-1.JSON", "ckpt.csv", "train.txt"], set()),
        (["checkpoints/5.ckpt", "checkpoints/6.json"], {"checkpoints/5.ckpt"}),
        ([], set()),
    ],
)
def test_the_newest_snapshot(files: list[str], newest: set[str]) -> None:
    assert choose(offered(*files), Outputs()).newest == newest


def test_a_snapshot_is_as_new_as_its_newest_file() -> None:
    files = [OfferedFile("step_1/a", 1, 1), OfferedFile("step_1/b", 1, 9), OfferedFile("step_2/a", 1, 5)]
    assert choose(files, Outputs()).newest == {"step_1/a", "step_1/b"}
    same = [OfferedFile(f"step_{number}/a", 1, 5) for number in (3, 2, 4)]
    assert fetched(9, *same) == ["step_2/a", "step_3/a", "step_4/a"]


def test_a_link_is_no_snapshot() -> None:
    files = [OfferedFile("step_1/a", 1, 1), OfferedFile("latest.ckpt", 0, 9, "step_1")]
    assert choose(files, Outputs()).newest == {"step_1/a"}
    assert fetched(9, *files) == ["step_1/a", "latest.ckpt"]


def test_the_newest_snapshot_comes_first_and_then_the_newest_of_the_rest() -> None:
    files = offered("a.log", "step_1/b", "step_1/a", "c.log", "step_2/a", "d.log")
    assert fetched(9, *files) == ["step_2/a", "d.log", "c.log", "step_1/a", "step_1/b", "a.log"]
    assert fetched(9, *reversed(files)) == fetched(9, *files)
    assert fetched(9, OfferedFile("b", 1, 1), OfferedFile("a", 1, 1)) == ["a", "b"]


def test_what_does_not_fit_stays_and_the_reader_is_told_why() -> None:
    files = offered(
        "old.log:10", "step_1/a:30", "step_1/b:31", "big.log:61", "step_2/a:20", "step_2/b:20", "new.log:20"
    )
    found = choose(files, Outputs(max_bytes=70))
    # Exactly 70 bytes.
    assert [each.path for each in found.chosen] == ["step_2/a", "step_2/b", "new.log", "old.log"]
    assert found.left == (
        "big.log (61 bytes: over outputs.max_size)",
        "step_1/a (30 bytes of 61 in its snapshot: over outputs.max_size)",
        "step_1/b (31 bytes of 61 in its snapshot: over outputs.max_size)",
    )
    assert (found.newest, found.lacking) == ({"step_2/a", "step_2/b"}, None)
    assert fetched(69, *files) == ["step_2/a", "step_2/b", "new.log"]


@pytest.mark.parametrize(
    ("files", "chosen", "lacking"),
    [
        (["a.log:5", "x.pt:11"], ["a.log"], "x.pt (11 bytes: over outputs.max_size)"),
        (
            ["a.log:5", "step_1/a:4", "step_1/b:7"],
            ["a.log"],
            "step_1/a (4 bytes of 11 in its snapshot: over outputs.max_size)",
        ),
        (["a.log:5", "x.pt:10"], ["x.pt"], None),
        (["a.log:5", "b.log:11"], ["a.log"], None),
    ],
)
def test_a_newest_snapshot_that_does_not_fit_is_named(
    files: list[str], chosen: list[str], lacking: str | None
) -> None:
    found = choose(offered(*files), Outputs(max_bytes=10))
    assert ([each.path for each in found.chosen], found.lacking) == (chosen, lacking)


def test_only_what_is_included_and_not_excluded_is_fetched() -> None:
    files = offered("a.log", "a.pt", "sub/b.log", "sub/c.log", "__pycache__/d.log")
    outputs = Outputs(include=("*.log",), exclude=("c.*", "__pycache__/"))
    found = choose(files, outputs)
    assert [each.path for each in found.chosen] == ["sub/b.log", "a.log"]
    assert (found.left, found.newest, found.lacking) == ((), frozenset(), None)
    assert [each.path for each in choose(files, Outputs()).chosen] == ["a.pt", "sub/c.log", "sub/b.log", "a.log"]


@given(
    st.dictionaries(
        st.sampled_from(
            [f"{where}{name}" for where in ("", "step_1/", "step_2/") for name in ("a.pt", "b.log", "c")]
        ),
        st.tuples(st.integers(0, 50), st.integers(0, 5)),
    ),
    st.integers(0, 150),
)
def test_no_choice_exceeds_the_limit_or_splits_a_snapshot(files: dict[str, tuple[int, int]], limit: int) -> None:
    found = choose([OfferedFile(path, *about) for path, about in files.items()], Outputs(max_bytes=limit))
    chosen = {each.path for each in found.chosen}
    left = {line.partition(" ")[0] for line in found.left}
    assert sum(each.size for each in found.chosen) <= limit
    assert chosen | left == files.keys() and not chosen & left
    for folder in ("step_1/", "step_2/"):
        of_folder = {path for path in files if path.startswith(folder)}
        assert of_folder <= chosen or of_folder <= left
    assert (found.lacking is None) == (found.newest <= chosen)


@pytest.mark.parametrize(
    ("text", "exists", "source"),
    [
        ("d", False, DataSource("d", None)),
        ("d:/mnt/x", False, DataSource("d", "/mnt/x")),
        ("d:", False, DataSource("d", None)),
        (":d", False, DataSource(":d", None)),
        ("a:b:c", False, DataSource("a:b", "c")),
        ("a:b", True, DataSource("a:b", None)),
        ("d", True, DataSource("d", None)),
    ],
)
def test_a_source_of_data_may_name_its_path_on_the_nodes(text: str, exists: bool, source: DataSource) -> None:
    assert parse_data(text, exists) == source


@pytest.mark.parametrize(
    ("to", "is_file", "target"),
    [
        (None, False, ("/w/data/n", None)),
        (None, True, ("/w/data", "n")),
        ("/mnt/x", False, ("/mnt/x", None)),
        ("/mnt/x", True, ("/mnt", "x")),
        ("/mnt/x/", True, ("/mnt/x", "n")),
        ("{workdir}/in", False, ("/w/in", None)),
        ("{workdir}/in/m", True, ("/w/in", "m")),
        ("m", True, (".", "m")),
    ],
)
def test_the_place_of_data_on_a_node(to: str | None, is_file: bool, target: tuple[str, str | None]) -> None:
    assert target_on_node(DataSource("src/n", to), "n", is_file, "/w") == target


def file(path: str, size: int = 1, about: str = "aa", mode: int = 0o644) -> Entry:
    return Entry(path, "file", mode, size, about)


def test_a_node_is_sent_the_bytes_that_it_lacks() -> None:
    entries = [file("a", 10), file("b", 20), file("c", 30)]
    first, second = Lacking({0: 4, 2: 0}), Lacking({2: 7, 1: 5, 0: 3})
    assert (first.size(entries), second.size(entries), Lacking({}).size(entries)) == (36, 45, 0)
    # From the first byte that any of them needs, in the order of the entries.
    assert to_send([first, second], entries) == to_send([second, first], entries) == [(0, 3), (1, 5), (2, 0)]
    assert to_send([Lacking({2: 5, 0: 0})], entries) == [(0, 0), (2, 5)]
    assert to_send([], entries) == []


SSH, FAST = Address("eth0", "10.0.0.1", 24), Address("ib0", "10.9.0.1", 16)
FAST_THERE, SSH_THERE = Address("ib0", "10.9.7.2", 16), Address("eth0", "10.0.0.2", 24)
LOOPBACK, SIX = Address("lo", "127.0.0.1", 8), Address("eth0", "fd00::1", 64)


@pytest.mark.parametrize(
    ("addresses", "others", "found"),
    [
        ([SSH, FAST], [[FAST_THERE]], ["10.0.0.1", "10.9.0.1"]),
        ([SSH, FAST], [[SSH_THERE], [FAST_THERE]], ["10.0.0.1", "10.9.0.1"]),
        ([SSH, FAST], [[SSH_THERE]], ["10.0.0.1"]),
        ([SSH, FAST], [], ["10.0.0.1"]),
        # The same addresses with another prefix are another network.
        ([SSH, FAST], [[replace(FAST_THERE, prefix=24)]], ["10.0.0.1"]),
        # SSH's address is kept whatever it is; others are IPv4, and lead to another machine.
        ([LOOPBACK, SSH], [[LOOPBACK, SSH_THERE]], ["127.0.0.1", "10.0.0.1"]),
        ([SIX, SSH], [[SIX, SSH_THERE]], ["fd00::1", "10.0.0.1"]),
        ([SSH, LOOPBACK, SIX], [[LOOPBACK, SIX]], ["10.0.0.1"]),
        ([SSH, FAST, SSH], [[SSH_THERE, FAST_THERE]], ["10.0.0.1", "10.9.0.1"]),
        ([], [[SSH_THERE]], []),
    ],
)
def test_a_node_listens_in_the_networks_of_others(
    addresses: list[Address], others: list[list[Address]], found: list[str]
) -> None:
    assert listen_addresses(Host("a", "a"), addresses, others) == found
    assert listen_addresses(Host("a", "a", fabric_address="10.5.0.1"), addresses, others) == ["10.5.0.1"]


def test_the_difference_between_trees() -> None:
    old = [file("b"), file("c"), file("d"), file("e"), file("f")]
    new = [file("a", 4), file("b", 2, "bb"), file("c", mode=0o755), Entry("d", "link", 0o777, 0, "c"), file("f")]
    found = difference(old, new)
    assert found == Difference(removed=("e",), added=(new[0],), changed=(new[1], new[2], new[3])) and found
    assert found.size == 4 + 2 + 1
    assert difference(old, old) == Difference((), (), ()) and not difference(old, old)
    assert difference(old, []) == Difference(("b", "c", "d", "e", "f"), (), ())
    for some in (difference(old, []), difference([], new), difference([file("a")], [file("a", 2)])):
        assert some


def test_a_file_is_sent_as_a_folder_that_holds_it_alone(tmp_path: Path) -> None:
    (tmp_path / "beside").write_text("x")
    (tmp_path / "data.bin").write_bytes(b"abc")
    (tmp_path / "data.bin").chmod(0o640)
    (tmp_path / "name").symlink_to("data.bin")
    content = hashlib.sha256(b"abc").hexdigest()
    made = hash_file(tmp_path / "data.bin")
    assert (made.root, made.size) == (tmp_path, 3)
    assert made.entries == (Entry("data.bin", "file", 0o640, 3, content),)
    # A link is followed, so the node gets the bytes.
    assert hash_file(tmp_path / "name").entries == (Entry("name", "file", 0o640, 3, content),)
    (tmp_path / "beside").unlink()
    (tmp_path / "name").unlink()
    assert made.tree_id == hash_tree(tmp_path).tree_id
    with pytest.raises(SyncError) as refused:
        hash_file(tmp_path / "none")
    assert str(refused.value) == f"cannot read {tmp_path}/none: No such file or directory"
