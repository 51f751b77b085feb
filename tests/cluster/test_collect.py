"""Outputs from nodes: none lands outside its folder, and each one that does not come is named."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.inventory.hosts import Outputs
from orchestrator.core.run.result import exit_code
from orchestrator.core.transfer.choice import OfferedFile, choose
from orchestrator.errors import OrchError
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.run.aftermath import CollectingErrands
from orchestrator.protocol import frames as wire
from orchestrator.protocol.transfer import Collect, Offered
from orchestrator.remote.landing import CannotLand, Landing
from orchestrator.remote.node import Node, program
from orchestrator.remote.outputs import collect
from orchestrator.ui.display import Display
from orchestrator.ui.run import RunDisplay
from tests import bare
from tests.history import happened
from tests.hostile import NAME, RUN, framed, node_that_says
from tests.namespaces import Cluster

# Answers every request with the frames in the file beside it.
REPLACED = """
import os, struct, sys
head = os.read(0, 5)
request = os.read(0, struct.unpack(">cI", head)[1])
nonce = request.split(b'"nonce":"')[1].split(b'"')[0]
sys.stdout.buffer.write(b"\\0orch:" + nonce + b"\\0" + open(__file__ + ".frames", "rb").read())
sys.stdout.flush()
os.read(0, 65536)
"""


def answering(cluster: Cluster, *messages: Any) -> None:
    """Replace the node program of the first host by one that sends these messages."""
    installed = cluster.hosts[0].home / ".orch" / "lib" / program()[0]
    installed.parent.mkdir(parents=True, exist_ok=True)
    installed.write_text(REPLACED)
    Path(f"{installed}.frames").write_bytes(b"".join(map(framed, messages)))


@pytest.fixture
def honest(cluster: Cluster) -> Iterator[None]:
    """Remove the replaced program after the test."""
    yield
    lib = cluster.hosts[0].home / ".orch" / "lib"
    for file in lib.glob(f"{program()[0]}*"):
        file.unlink()


def sending(path: str, content: bytes, mode: int = 0o644) -> list[Any]:
    return [{"path": path, "size": len(content), "mode": mode}, wire.data_frame(content)]


@pytest.mark.cluster
@pytest.mark.usefixtures("honest")
def test_nothing_that_a_node_sends_lands_outside(node: Node, cluster: Cluster, tmp_path: Path) -> None:
    home, into = tmp_path / "home", tmp_path / "runs" / "run" / "node1"
    home.mkdir()
    (home / ".bashrc").write_text("mine\n")
    links = [["a/b/up", 0, 1, "../.."], ["a/b/up/x", 0, 1, "../../../home"], ["a/b/up/x/.bashrc", 0, 1, "../../y"]]
    file = b"echo theirs\n"
    through = ["a/b/up/x/.bashrc2", len(file), 2, None]
    answering(cluster, {"work": "/w", "files": links}, {"done": True})
    found = collect(node, "run", Outputs(), into)
    assert [each.partition(" (")[0] for each in found.left] == ["a/b/up/x", "a/b/up/x/.bashrc"]
    answering(cluster, {"work": "/w", "files": [*links, through]}, *sending(through[0], file), {"done": True})
    assert through[0] in collect(node, "run", Outputs(), into).left[0]
    # Once more with a link there from the beginning, as an earlier collection could have left it.
    (into / "x").symlink_to(home)
    over = ["x/.bashrc", len(file), 2, None]
    answering(cluster, {"work": "/w", "files": [over]}, *sending("x/.bashrc", file), {"done": True})
    assert collect(node, "run", Outputs(), into).left == ("x/.bashrc ('x' on its path is not a folder)",)
    assert sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_relative_to(into)
    ) == [*("home", "home/.bashrc", "runs", "runs/run")]
    assert (home / ".bashrc").read_text() == "mine\n"


@pytest.mark.cluster
@pytest.mark.usefixtures("honest")
@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([{"path": "f", "size": 8_000_000, "mode": 420}], "8,000,000 bytes of 'f', which it offered with 10"),
        ([{"path": "f", "size": 10, "mode": 420}, wire.data_frame(b"x" * 20)], "more of 'f' than it offered"),
        ([{"path": "g", "size": 10, "mode": 420}], "it sends 'g' instead of 'f'"),
        ([wire.data_frame(b"x" * 10)], "data that was not asked for"),
        ([*sending("f", b"x" * 10), *sending("f", b"x" * 10)], "it sends more than was asked for"),
        ([{"path": "f", "size": 10, "mode": 420}], "the node program ended with exit code 0"),
    ],
)
def test_a_node_that_sends_something_else_than_it_offered(
    node: Node, cluster: Cluster, tmp_path: Path, messages: list[Any], problem: str
) -> None:
    answering(cluster, {"work": "/w", "files": [["f", 10, 1, None]]}, *messages)
    with pytest.raises(OrchError, match=problem) as caught:
        collect(node, "run", Outputs(), tmp_path / "node1")
    assert caught.value.host == "node1"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "more" not in problem]


@pytest.mark.cluster
@pytest.mark.usefixtures("honest")
def test_modes_and_names_are_ours_to_choose(node: Node, cluster: Cluster, tmp_path: Path) -> None:
    names = ["/etc/x", "../x", "a//b", "", "a/../../x", "n" * 300, "d/" * 80 + "f", "/".join(["d" * 120] * 60)]
    names += ["\ud800", ".orch-part", ".Orch-Part/x", "\u4e2d" * 86]
    # "p/q" leads up too far, and in "s/.." the ".." follows a name that could be a link.
    links = [("l", "/etc"), ("m", "../m"), ("n", "x" * 5000), ("o", "\udabc"), ("p/q", "../.."), ("r", "s/..")]
    files = [["s", 1, 1, None], *([name, 1, 1, None] for name in names), *([a, 0, 1, b] for a, b in links)]
    answering(cluster, {"work": "/w", "files": files}, *sending("s", b"x", 0o6777), {"done": True})
    found = collect(node, "run", Outputs(), tmp_path / "node1")
    assert len(found.left) == len(names) + len(links) and found.files == 1
    assert (tmp_path / "node1" / "s").stat().st_mode & 0o7022 == 0
    assert [path.name for path in (tmp_path / "node1").rglob("*")] == ["s"]


@pytest.mark.cluster
@pytest.mark.usefixtures("honest")
def test_names_that_are_odd_but_lawful_come(node: Node, cluster: Cluster, tmp_path: Path) -> None:
    names = ["\udcff\udc80", "\u4e2d" * 85, ".x.part", "x", "n" * 255, "p/.orch-part"]
    links = {"p/up": "..", "p/l": "../x", "dot": "./p/l"}
    files = [
        *([name, 1, 100 - at, None] for at, name in enumerate(names)),
        *([name, 0, 1, to] for name, to in links.items()),
    ]
    sent = [part for name in names for part in sending(name, name[-1:].encode("utf-8", "surrogateescape")[:1])]
    answering(cluster, {"work": "/w", "files": files}, *sent, {"done": True})
    found = collect(node, "run", Outputs(include=("**",)), tmp_path / "node1")
    assert found.left == () and found.files == len(files)
    assert all((tmp_path / "node1" / name).is_file() for name in (*names, "p/l", "dot"))
    assert (tmp_path / "node1" / ".x.part").read_text() == "t"
    folder = RunFolder.open(tmp_path, RUN)
    shown = happened(time.time(), "collected", NAME, {"files": 1, "bytes": 1, "left": names, "lacking": names[0]})
    folder.record(shown)
    RunDisplay(Display(verbose=True)).event(shown)
    Display().note(names[0])
    folder.close()


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["nothing", "a byte at a time"])
def test_a_node_that_dawdles_does_not_keep_a_run_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: bytes
) -> None:
    monkeypatch.setattr("orchestrator.remote.outputs.PIECE_TIMEOUT", 0.3)

    def read(channel: Any, silence: float) -> bytes:
        time.sleep(0.05)
        return wire.data_frame(piece)

    begin = [{"work": "/w", "files": [["f", 1000, 1, None]]}, {"path": "f", "size": 1000, "mode": 420}]
    node = node_that_says(b"".join(map(framed, begin)))
    call = node.call(Collect(run_id=RUN))
    said = call.channel.read
    first = [True]

    def slowly(silence: float | None = None) -> bytes:
        if first and (found := said(silence)):
            return found
        first.clear()
        return read(call.channel, 0)

    call.channel.read = slowly  # type: ignore[method-assign]
    monkeypatch.setattr(node, "call", lambda request: call)
    began = time.monotonic()
    with pytest.raises(OrchError, match="or nothing" if not piece else "no whole answer within"):
        collect(node, RUN, Outputs(), tmp_path)
    assert time.monotonic() - began < 5


@pytest.mark.cluster
@pytest.mark.usefixtures("honest")
def test_a_file_that_shrinks_where_it_cannot_land_is_missed(node: Node, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "node1").mkdir()
    (tmp_path / "node1" / "d").symlink_to(tmp_path)
    files = [["d/f", 10, 9, None], ["g", 1, 1, None]]
    half = [*sending("d/f", b"12345"), {"path": "d/f", "skipped": "changed"}]
    half[0]["size"] = 10
    answering(cluster, {"work": "/w", "files": files}, *half, *sending("g", b"x"), {"done": True})
    found = collect(node, "run", Outputs(), tmp_path / "node1")
    assert found.left == ("d/f ('d' on its path is not a folder)",) and found.files == 1


@pytest.mark.cluster
@pytest.mark.usefixtures("honest")
def test_a_newest_snapshot_that_was_missed_is_said(node: Node, cluster: Cluster, tmp_path: Path) -> None:
    files = [["snapshot.pt", 1, 9, None], ["g", 1, 1, None]]
    skipped = {"path": "snapshot.pt", "skipped": "changed while it was fetched"}
    answering(cluster, {"work": "/w", "files": files}, skipped, *sending("g", b"x"), {"done": True})
    with pytest.raises(OrchError, match="more than was asked for"):
        # The node is asked once more, for the snapshot alone, and this program sends the same again.
        collect(node, "run", Outputs(), tmp_path / "node1")
    answering(cluster, {"work": "/w", "files": files[:1]}, skipped, {"done": True})
    found = collect(node, "run", Outputs(), tmp_path / "node1")
    assert found.lacking == "snapshot.pt (changed while it was fetched)" and found.left == (found.lacking,)


@pytest.mark.cluster
def test_what_changes_between_offer_and_sending_stays_and_the_rest_comes(
    node: Node, cluster: Cluster, project: Path
) -> None:
    asked = bare.request(
        node, project, ["sh", "-c", "for f in gone short grown new kept piped; do echo 12345 > $f; done"]
    )
    for _ in bare.start(node, asked).frames(20):
        continue
    work = cluster.hosts[0].home / "orch-work" / "runs" / "node1" / asked.run_id
    call = node.call(Collect(run_id=asked.run_id))
    offered = {entry[0]: entry[1] for entry in call.answer(Offered.from_wire, 20).files}
    assert set(offered) == {"gone", "short", "grown", "new", "kept", "piped"}
    (work / "gone").unlink()
    (work / "short").write_text("1")
    with (work / "grown").open("a") as file:
        file.write("67890\n")
    (work / "other").write_text("another file")
    (work / "other").rename(work / "new")
    (work / "piped").unlink()
    os.mkfifo(work / "piped")
    call.channel.write(wire.json_frame({"files": [[name, offered[name]] for name in sorted(offered)]}))
    got: dict[str, Any] = {}
    for kind, payload in call.frames(20):
        if kind == wire.DATA:
            got[last] += payload  # noqa: F821
        elif (about := json.loads(payload)).get("done"):
            break
        else:
            last = about["path"]
            got[last] = about.get("skipped", b"")
    assert got == {
        "gone": "vanished",
        "piped": "changed while it was fetched",
        "short": "changed while it was fetched",
        "new": "changed while it was fetched",
        "grown": b"12345\n",
        "kept": b"12345\n",
    }


def test_the_newest_snapshot_is_never_dropped_in_favour_of_smaller_files() -> None:
    offers = [OfferedFile(f"log{n}.txt", 10, 100 + n) for n in range(50)]
    offers += [
        OfferedFile("out/snapshot_1.pt", 900, 50),
        OfferedFile("out/snapshot_2.pt", 900, 60),
        OfferedFile("latest.txt", 5, 999),
    ]
    found = choose(offers, Outputs(max_bytes=1000))
    assert found.chosen[0].path == "out/snapshot_2.pt" and found.lacking is None
    assert [each.path for each in found.chosen[1:3]] == ["latest.txt", "log49.txt"]
    assert "out/snapshot_1.pt (900 bytes: over outputs.max_size)" in found.left
    # A snapshot of several files comes whole or not at all.
    parts = [OfferedFile(f"checkpoint-20/{name}", 400, 60 + n) for n, name in enumerate(("model.bin", "rng.json"))]
    found = choose([*offers, *parts], Outputs(max_bytes=1000))
    assert {each.path for each in found.chosen[:2]} == {each.path for each in parts}
    found = choose(offers, Outputs(max_bytes=800))
    assert found.lacking == "out/snapshot_2.pt (900 bytes: over outputs.max_size)" and len(found.chosen) == 51
    # A snapshot that does not fit is left whole, and an older one comes instead.
    found = choose([*offers, *parts], Outputs(max_bytes=799))
    assert found.lacking == "checkpoint-20/model.bin (400 bytes of 800 in its snapshot: over outputs.max_size)"
    assert not {each.path for each in found.chosen} & {each.path for each in parts}


@pytest.mark.parametrize(
    ("paths", "newest"),
    [
        (["run/checkpoints/epoch1.ckpt", "run/checkpoints/epoch2.ckpt"], 1),
        (["lightning_logs/version_0/checkpoints/epoch=0-step=9.ckpt", "a/checkpoints/epoch=1-step=18.ckpt"], 1),
        (["checkpoint/model.pt", "checkpoint/optimizer.pt"], 2),
        (
            ["checkpoint-500/model-00001-of-00002.safetensors", "checkpoint-500/model-00002-of-00002.safetensors"],
            2,
        ),
        (["checkpoint/global_step9/zero.pt", "checkpoint/global_step20/zero.pt", "checkpoint/latest"], (1,)),
        (["ckpts/10/__0_0.distcp", "ckpts/20/__0_0.distcp", "ckpts/20/__1_0.distcp"], 2),
        (["last.ckpt/mp_rank_00.pt", "last.ckpt/zero.pt"], 2),
        (["metrics.jsonl", "out/loss.png"], 0),
    ],
)
def test_what_one_snapshot_is(paths: list[str], newest: int | tuple[int]) -> None:
    found = choose([OfferedFile(path, 1, at) for at, path in enumerate(paths)], Outputs()).newest
    wanted = {paths[at] for at in newest} if isinstance(newest, tuple) else set(paths[len(paths) - newest :])
    assert found == wanted


def test_a_collection_that_fails_is_said_once_and_told_by_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder.open(tmp_path, RUN)
    folder.begin([NAME], 1)
    broken = node_that_says(framed({"work": "/w", "files": "none"}))
    errands = CollectingErrands({NAME: broken}, Outputs(), folder, Display())
    for final in (False, False, True):
        errands.collect((NAME,), final, folder.record)
    assert [each.KIND for each in folder.events].count("collect_failed") == 3
    said = [line for line in capsys.readouterr().err.splitlines() if "could not be fetched" in line]
    assert len(said) == 1 and said[0].startswith(f"{NAME}: its outputs could not be fetched: broke the protocol")
    ended = {"exit_code": 0, "signal": None, "stopped": False, "killed": 0}
    folder.record(happened(time.time(), "finished", NAME, ended))
    assert folder.result().ok and exit_code(folder.result(), None) == 5
    folder.close()


def test_a_file_lands_whole_or_not_at_all(tmp_path: Path) -> None:
    with Landing(tmp_path / "here") as landing:
        with pytest.raises(KeyError), landing.file("a/file", 0o644, 5) as write:
            write(b"half")
            raise KeyError
        assert [path for path in (tmp_path / "here").rglob("*") if path.is_file()] == []
        with landing.file("a/file", 0o755, 5) as write:
            write(b"whole")
        assert (tmp_path / "here" / "a" / "file").read_bytes() == b"whole"
        status = landing.status("a/file")
        assert status is not None and status.st_mtime_ns == 5
        for path in ("a", "a/file/below"):
            with pytest.raises(CannotLand), landing.file(path, 0o644, 5) as write:
                write(b"x")
        (tmp_path / "here" / "l").symlink_to("a")
        with landing.file("l", 0o644, 5) as write:
            write(b"a file now")
        assert (tmp_path / "here" / "a" / "file").read_bytes() == b"whole"
    shutil.rmtree(tmp_path / "here")
