"""A node whose program was replaced and answers every verb as it likes; for tests and ``benchmarks/hostile.py``.

Only the SSH connection is a stand-in; everything above it is real.
"""

from __future__ import annotations

import copy
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from orchestrator import errors
from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.findings import Examined
from orchestrator.core.diagnosis.diagnosis import diagnose, scan
from orchestrator.core.inventory.hosts import Host, Outputs
from orchestrator.core.inventory.target import Settings
from orchestrator.core.keys.changes import told
from orchestrator.core.launch.environment import Environment
from orchestrator.core.run.listing import NodeRun, whole_runs
from orchestrator.core.run.output import NodeSample, Output
from orchestrator.core.transfer.local_tree import LocalTree, hash_tree
from orchestrator.local.run_folder import RunFolder
from orchestrator.protocol import frames as wire
from orchestrator.protocol.events import Event
from orchestrator.protocol.facts import AskFacts
from orchestrator.protocol.keys import ArrangeKeys, KeysArranged
from orchestrator.protocol.run import Follow, ListRuns, RunsHere
from orchestrator.protocol.transfer import ListUsed, Prune, Pruned, Used, Verified, Verify
from orchestrator.remote.environment import Build
from orchestrator.remote.node import Node
from orchestrator.remote.node_client import Heard, SshNodeClient
from orchestrator.remote.outputs import collect
from orchestrator.remote.probing import Mesh, ask_facts, hang_up
from orchestrator.remote.relay import RelayCall
from orchestrator.remote.store import Push
from orchestrator.ui.console import Screen
from orchestrator.ui.run import nodes_table
from orchestrator.ui.runs import runs_table

NAME = "gpu7"
RUN = "20261121-042040-7f3a"
HASH, PLACE = "ab" * 32, "cd" * 16


class Replies:
    """The channel of one call: the preamble, then the bytes that the node was given to send, then the end."""

    def __init__(self, said: bytes) -> None:
        self.host = NAME
        self.sent = 0
        self.said = io.BytesIO(said)
        self.preamble: bytes | None = None
        self.lock = threading.Lock()

    def write(self, data: bytes) -> None:
        self.sent += len(data)
        if self.preamble is None:
            nonce = json.loads(data[wire.HEAD.size :])["nonce"]
            self.preamble = wire.preamble(nonce)

    def read(self, silence: float | None = None) -> bytes:
        with self.lock:
            first, self.preamble = self.preamble or b"", b""
            return first or self.said.read(65536)

    def end_input(self) -> None:
        return

    def read_errors(self) -> bytes:
        return b"\x1b]52;c;aGk=\x07 broken\n[/red]"

    def output(self, silence: float | None = None) -> tuple[bytes, bytes]:
        return b"", b""

    def exit_code(self, limit: float | None = None) -> int:
        return 1

    def close(self) -> None:
        return


class Link:
    """A connection that cannot be opened again."""

    alive = True
    settings = Settings(connect_timeout=1.0)

    def __init__(self, said: bytes) -> None:
        self.host = Host(NAME, NAME)
        self.said = said

    def command(self, line: str) -> Replies:
        return Replies(self.said)

    def reopen(self, timeout: float) -> None:
        raise errors.ConnectTimeout("gone", host=NAME)


def node_that_says(said: bytes) -> Node:
    """Return a node that answers every call with these frames."""
    return Node(Link(said))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Verb:
    """What the control side does with a node, and the frames that an honest node answers with."""

    name: str
    frames: tuple[Any, ...]
    do: Callable[[Node, Path], object]

    def honest(self) -> bytes:
        return b"".join(map(framed, self.frames))


def framed(message: Any) -> bytes:
    """Return a message as a frame; bytes are returned as they are."""
    if isinstance(message, bytes):
        return message
    payload = json.dumps(message).encode()
    return wire.HEAD.pack(wire.JSON, len(payload)) + payload


def shown(*what: Any) -> None:
    """Print as a command would. Raises AssertionError if an OSC sequence reaches the terminal."""
    screen = Screen(file=io.StringIO(), force_terminal=True, width=120)
    for each in what:
        screen.print(each)
    assert "\x1b]" not in screen.file.getvalue()  # type: ignore[attr-defined]


def stopped(node: Node, folder: Path) -> None:
    answer = node.stop(RUN, 1.0)
    shown(", ".join(answer.ended + answer.alive), str(answer.refused))


def arranged(node: Node, folder: Path) -> None:
    answer = node.ask(ArrangeKeys(entries={}, key="make", write=True), KeysArranged.from_wire, 5.0)
    shown(*told(answer, done=True))
    # It goes into the authorized_keys of other nodes.
    assert answer.public is None or answer.public.isprintable()


def listed(node: Node, folder: Path) -> None:
    answer = node.ask(ListRuns(run_id=None, ended=True), RunsHere.from_wire, 5.0)
    found = whole_runs(NodeRun.from_answer(each, answer.time, NAME) for each in answer.runs)
    if found:
        shown(runs_table(found))


def examined(node: Node, folder: Path) -> None:
    answers, problems = ask_facts([node], {NAME: AskFacts()}, 4)
    if problems:
        raise problems[0]
    twin = {NAME: answers[NAME], "gpu8": answers[NAME]}
    probes, logins = Mesh(twin, {name: ["10.0.0.1"] for name in twin}, 29500).probe()
    hang_up(answers)
    seen = Examined(
        hosts=[Host(name, name) for name in twin],
        facts={name: replace(answers[NAME].facts, node=name) for name in twin},
        probes=probes,
        logins=logins,
        addresses=dict.fromkeys(twin, "10.0.0.1"),
        port=29500,
    )
    for finding in check(seen, quick=False):
        shown(str(finding))


def snapshot(folder: Path) -> LocalTree:
    """Return a snapshot of a project of one file."""
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "file").write_text("text")
    return hash_tree(project)


def pushed(node: Node, folder: Path) -> None:
    Push(node, "~/w", "p", snapshot(folder)).send()


def relayed(node: Node, folder: Path) -> None:
    tree = snapshot(folder)
    relay = RelayCall(node, "~/w", "~/w/data", tree.entries)
    relay.listen(["10.0.0.1"])
    relay.order("token", None, [(0, 0)])
    relay.feed(iter([b"text"]))
    shown(str(relay.result(lambda done: None)))


def built(node: Node, folder: Path) -> None:
    build = Build(node, "~/w", Environment("requirements.txt", "numpy\n", None))
    if not build.ready:
        shown(str(build.run(None, shown)))


def collected(node: Node, folder: Path) -> None:
    into = folder / "runs" / RUN / NAME
    into.mkdir(parents=True, exist_ok=True)
    shown(str(collect(node, RUN, Outputs(), into)))


def asked_for_lists(node: Node, folder: Path) -> None:
    verify = Verify(workdir="~/w", project="p", tree=PLACE)
    prune = Prune(workdir="~/w", keep=1, runs=False, used=())
    for request, kind in ((verify, Verified), (ListUsed(), Used), (prune, Pruned)):
        try:
            shown(str(node.ask(request, kind.from_wire, 5.0)))
        except errors.OrchError:
            continue
    node.ask(verify, Verified.from_wire, 5.0)


def followed(node: Node, folder: Path) -> None:
    heard: list[Heard] = []
    listener = SshNodeClient(node, Follow(run_id=RUN, attempt=1), 0.001)
    record = RunFolder.open(folder / "runs", RUN)
    record.begin([NAME], 1)
    try:
        listener.follow()
        listener.hear(heard.append)
    finally:
        for item in heard:
            if isinstance(item, Output):
                record.log(item)
            elif isinstance(item, Event):
                assert item.node == NAME
                record.record(item)
    for _, _, text in record.tails():
        scan(text)
    result = record.result()
    shown(nodes_table(result), str(diagnose(result)))
    [str(item) for item in heard if isinstance(item, NodeSample)]
    record.close()
    (folder / "runs" / RUN / "events.jsonl").unlink()


DISK = {"path": "/tmp", "there": True, "free": 1 << 40, "size": 1 << 41, "inodes": 10000, "writable": True,
        "noexec": False, "kind": "ext4"}  # fmt: skip
FACTS = {
    "hostname": "gpu7", "home": "/home/u", "path": "/usr/bin", "user": "u", "system": "Linux",
    "python": {"path": "/usr/bin/python3", "error": None, "version": "3.11.2", "torch": "2.15.0"}, "gpus": 1,
    "addresses": [["lo", "127.0.0.1", 8], ["eth0", "10.0.0.1", 24], ["eth0", "fd00::1", 64]],
    "routes": [["eth0", "10.0.0.0", 24]], "ssh_address": "10.0.0.1", "free_port": 29500, "trees": [True],
    "running": {"run_id": RUN, "owner": "u@laptop", "workload": "train", "age": 3.5}, "leftovers": [RUN],
    "parts": {
        "system": {"os": "Debian", "kernel": "6.1", "machine": "x86_64", "libc": "glibc 2.36", "firewall": "nft",
                   "boot_id": "b", "root": False},
        "own_name": {"hostname": "gpu7", "addresses": ["127.0.1.1"]},
        "limits": {"ephemeral_ports": [32768, 60999], "open_files": [1024, None], "processes": [100, 100],
                   "locked_memory": [65536, 65536]},
        "memory": {"total": 1 << 35, "available": 1 << 34, "swap": 0, "swap_free": 0, "limit": None, "cores": 8,
                   "load": 0.5},
        "disks": {"workdir": DISK, "home": DISK, "/tmp": DISK}, "shm": DISK,
        "variables": {"drift": {"NCCL_DEBUG": "INFO"}},
        "interfaces": {"eth0": {"up": True, "speed": 1000, "mtu": 1500, "kind": "ethernet"}},
        "listeners": {"29500": "pid 3 (python)"}, "torchruns": [[3, 1000, "torchrun x"]],
        "home": {"path": "/home/u", "kind": "nfs4", "host": "gpu7"}, "names": {"gpu8": ["10.0.0.2"]},
        "timekeeping": {"synchronised": True}, "logout": {"kills": False},
        "rdma": {"mlx5_0/1": {"state": "ACTIVE", "rate": "200 Gb/sec (4X HDR)", "link": "InfiniBand"}},
        "locks": [["/home/u/.cache/lock", 10.5]], "kept": {"path": "/w", "trees": 1, "runs": 1, "newest": PLACE},
        "gpus": [{"index": "0", "name": "H200", "uuid": "GPU-1", "driver_version": "550.1",
                  "memory.total": "81559", "memory.used": "4", "utilization.gpu": "0", "temperature.gpu": "30",
                  "ecc.errors.uncorrected.volatile.total": "0", "persistence_mode": "Enabled",
                  "compute_mode": "Default", "clocks_throttle_reasons.hw_slowdown": "Not Active"}],
        "gpu_users": [[5, "python", "100"]], "gpu_peers": [[0, 1, "NS"]], "gpu_errors": [["0000:3b", 79, "fell"]],
        "versions": {"executable": "/usr/bin/python3", "version": "3.11.2", "packages": {"torch": "2.15.0"},
                     "torchvision_wants": None, "path": "/usr/bin/python3"},
        "torch": {"cuda": "12.4", "devices": 1, "backends": ["gloo", "nccl"]},
    },
}  # fmt: skip
PROBED = {"tcp": {"10.0.0.1": "ok"}, "rtt": 0.001, "loss": 0.0, "bulk": [1000, 0.1], "master": "ok"}
LISTENING = {"port": 4000, "udp_port": 4001, "master": "ok"}
SAMPLE = {"cpu": 0.5, "memory_used": 10, "memory_total": 20, "gpus": [[0.5, 1, 2]]}
ENDED = {"event": "finished", "time": 3.0, "exit_code": 1, "signal": None, "stopped": False, "killed": 0,
         "oom_kills": 0, "alive": ["pid 3 (x) of y"]}  # fmt: skip
FAILED = {"event": "rank_failed", "time": 2.0, "rank": 0, "local_rank": 0, "pid": 7, "exit_code": 1, "signal": None,
          "failed_at": 2.0, "message": "ValueError: x", "full_disks": ["/w"]}  # fmt: skip
A_RUN = {"run_id": RUN, "attempt": 1, "state": "running", "workload": "train", "owner": "u", "node": NAME,
         "nodes": [NAME, "gpu8"], "node_rank": 0, "first_rank": 0, "nproc": 8, "min_nodes": None, "leftovers": 0,
         "last_line": "loss 0.5", "began": 1.0, "ended": 2.0, "exit_code": 0}  # fmt: skip
LOG = wire.log_frame(0, 0, b"Traceback (most recent call last):\nValueError: x\n")
VERBS = (
    Verb("stop", ({"ended": [RUN], "refused": None, "killed": 1, "alive": []},), stopped),
    Verb("keys", ({"home": "/root 1 2", "public": "ssh-ed25519 " + "A" * 68 + " of a node", "key_made": True,
                   "files": {"authorized_keys": {"added": 1, "mode": 384}}, "doubts": ["too open"]},), arranged),
    Verb("runs", ({"runs": [A_RUN], "time": 5.0},), listed),
    Verb("facts", ({"time": 1.0}, FACTS, LISTENING, LISTENING,
                   {"results": {NAME: PROBED, "gpu8": PROBED}, "logins": {"gpu8": "ok"}},
                   {"results": {NAME: PROBED, "gpu8": PROBED}, "logins": {}}), examined),
    Verb("store", ({"have": False, "disk_id": PLACE, "base": None}, {"wanted": []}, {"stored": PLACE}), pushed),
    Verb("relay", ({"disk_id": PLACE, "addresses": [["eth0", "10.0.0.1", 24]], "lacking": [[0, 0]]}, {"port": 4000},
                   {"next": None}, {"at": 2}, {"done": True, "complete": True, "damaged": [], "next": None}),
         relayed),
    Verb("environment", ({"ready": None, "disk_id": PLACE, "version": "3.11.2", "machine": "x", "libc": "glibc"},
                         {"line": "Collecting numpy"}, {"failed": ["no"], "offline": True}), built),
    Verb("collect", ({"work": "/w", "files": [["out.txt", 4, 5, None], ["a/link", 0, 5, "../out.txt"]]},
                     {"path": "out.txt", "size": 4, "mode": 420}, wire.data_frame(b"text"), {"done": True}),
         collected),
    Verb("lists", ({"changed": ["a"], "missing": [], "added": []},), asked_for_lists),
    Verb("follow", ({"type": "following", "time": 1.0},
                    {"type": "stream", "id": 0, "name": "0.stderr", "rank": 0, "local_rank": 0, "restart": 0}, LOG,
                    {"type": "event", "event": {"event": "torchrun_started", "time": 1.0, "pid": 3}},
                    {"type": "event", "event": {"event": "worker", "time": 1.5, "rank": 0, "local_rank": 0,
                                                "pid": 4, "logs": "logs/x", "restart": 0}},
                    {"type": "beat", "time": 2.0, "sample": SAMPLE}, {"type": "event", "event": FAILED},
                    {"type": "event", "event": ENDED}, {"type": "end"}), followed),
)  # fmt: skip

WORDS = (
    "",
    "\x1b]52;c;aGk=\x07",
    "[/eth0]",
    "../../etc/x",
    "/etc/passwd",
    "\0",
    "x" * 5000,
    "node_lost",
    "ok",
    "\ud800",
)
JUNK = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 65536, 1 << 53, -(1 << 70), 10**30, 1e308, 0.5, [], {}, [[]]]),
    st.sampled_from([float("nan"), float("inf"), *WORDS]),
    st.text(max_size=20),
    st.integers(),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=5)), max_size=4),
    st.dictionaries(
        st.sampled_from(["event", "type", "error", "kind", "run_id", "time", "x"]), st.text(max_size=5)
    ),
    st.integers(1, 100_000).map(lambda depth: "[" * depth),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def mutated(draw: st.DrawFn, frames: tuple[Any, ...]) -> bytes:
    """Draw the frames with one to three changes: to values, to whole frames, or to their order."""
    said = [json.loads(json.dumps(frame)) if not isinstance(frame, bytes) else frame for frame in frames]
    for _ in range(draw(st.integers(1, 3))):
        if not said:
            break
        at = draw(st.integers(0, len(said) - 1))
        how = draw(st.sampled_from(["value", "value", "value", "value", "drop", "twice", "swap", "frame", "cut"]))
        if how == "drop":
            del said[at]
        elif how == "twice":
            said.insert(at, said[at])
        elif how == "swap":
            other = draw(st.integers(0, len(said) - 1))
            said[at], said[other] = said[other], said[at]
        elif how == "frame":
            kind = draw(st.sampled_from([wire.JSON, wire.DATA, wire.LOG, b"X"]))
            payload = draw(st.binary(max_size=40))
            said.insert(at, wire.HEAD.pack(kind, draw(st.sampled_from([len(payload), 0, 1 << 24, (1 << 32) - 1])))
                        + payload)  # fmt: skip
        elif how == "cut":
            said[at] = framed(said[at])[: draw(st.integers(0, 60))]
        elif not isinstance(said[at], bytes):
            said[at] = changed(draw, said[at])
    return b"".join(map(framed, said))


def changed(draw: st.DrawFn, message: Any) -> Any:
    """Return the message with one value replaced, removed or added."""
    where = draw(st.sampled_from(list(places(message))))
    # The same object may be drawn again, so use a copy.
    junk = copy.deepcopy(draw(JUNK))
    if isinstance(junk, str) and junk.startswith("[["):
        raw = junk.encode()
        return wire.HEAD.pack(wire.JSON, len(raw)) + raw
    if not where:
        return junk
    holder = message
    for key in where[:-1]:
        holder = holder[key]
    how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if how == "remove":
        del holder[where[-1]]
    elif how == "add" and isinstance(holder, list):
        holder += [junk] * draw(st.integers(1, 50))
    elif how == "add":
        holder[draw(st.text(max_size=10))] = junk
    else:
        holder[where[-1]] = junk
    return message


def error_of(verb: Verb, said: bytes, folder: Path) -> str | None:
    """Let the control side hear ``said`` and return the OrchError that it ends with, as text, or None.

    Raises any other exception, and AssertionError if the error does not name the node or the call takes 5 s.
    """
    began = time.monotonic()
    error = None
    try:
        verb.do(node_that_says(said), folder)
    except errors.OrchError as caught:
        error = str(caught)
        assert NAME in error, error
        shown(error)
    assert time.monotonic() - began < 5.0, "the call took 5 s or longer"
    return error


def outside(folder: Path, before: set[str]) -> set[str]:
    """Return the paths that were not there before and lie in neither the runs' nor the project's folder."""
    now = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {path for path in now - before if not path.startswith(("runs", "project"))}
