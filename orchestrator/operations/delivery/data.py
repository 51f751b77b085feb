"""Delivery of data: sent once, passed on from node to node during arrival, verified, and resumed after a break."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.core.inventory.hosts import DataSource
from orchestrator.core.text.counted import counted
from orchestrator.core.transfer.data import Lacking, listen_addresses, named_on_node, target_on_node, to_send
from orchestrator.core.transfer.local_tree import Hashes, LocalTree, hash_file, hash_tree
from orchestrator.errors import ConnectionLost, HostErrors, OrchError, SyncError, UsageError
from orchestrator.local.datasets import KNOWN, fetched
from orchestrator.operations.cluster import OpenCluster
from orchestrator.protocol.transfer import NextNode, Received
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.relay import RelayCall, contents
from orchestrator.remote.shared_disk import groups_by_disk
from orchestrator.ui.display import Display

# How long to try to make a broken connection again, in seconds.
REOPEN = 10.0


def send_data(
    opened: OpenCluster,
    nodes: Sequence[Node],
    source: DataSource,
    rate: float | None,
    display: Display,
    *,
    label: str | None = None,
) -> None:
    """Bring a file or a folder to every node, at ``rate`` bytes per second or less, and print a line on stdout.

    ``label`` names data that are part of another operation, as wheels are: then no line is printed on stdout.

    Raises UsageError, SyncError, and HostErrors after all other nodes have the data.
    """
    path, tree = read_data(source, display)
    distribution = Distribution(opened, source, path, tree, rate, display, label or path.name)
    errors = distribution.run(nodes)
    if errors:
        raise HostErrors(errors, len(nodes))
    if label is None:
        display.write(f"{path.name} is on {counted(len(nodes), 'host')}, {tree.size / 1e6:.1f} MB each\n")


def missing_data(
    opened: OpenCluster, nodes: Sequence[Node], source: DataSource, display: Display
) -> dict[str, list[str]]:
    """Return the files that each node lacks or has with other contents. Raises what ``send_data`` raises."""
    path, tree = read_data(source, display)
    workdirs = {host.name: host.workdir for host in opened.hosts}

    def look(node: Node) -> list[str]:
        relay = ask_lacking(node, workdirs[node.name], source, path, tree, look=True)
        relay.close()
        return [tree.entries[index].path for index in relay.lacking.files]

    outcomes = on_all(nodes, look, limit=opened.fanout)
    if errors := failures(outcomes):
        raise HostErrors(errors, len(nodes))
    return {
        node.name: outcome
        for node, outcome in zip(nodes, outcomes, strict=True)
        if not isinstance(outcome, OrchError)
    }


def ask_lacking(
    node: Node, workdir: str, source: DataSource, path: Path, tree: LocalTree, *, look: bool = False
) -> RelayCall:
    """Ask a node what it lacks of some data, under the names that the files get there. ``look``: only compare."""
    root, name = target_on_node(source, path.name, path.is_file(), workdir)
    return RelayCall(node, workdir, root, named_on_node(tree, name), look=look)


def read_data(source: DataSource, display: Display) -> tuple[Path, LocalTree]:
    """Return a source's path and its tree. Download a known data set. Raises UsageError, SyncError."""
    path = Path(source.path).expanduser()
    if not path.exists() and source.path in KNOWN:
        with display.stage(f"fetching {source.path}"):
            path = fetched(source.path, cache_folder())
    if not path.exists():
        raise UsageError(f"--data {source.path}: no such file or folder")
    with display.stage(f"reading {path}"):
        return path, read_tree(path)


def read_tree(path: Path) -> LocalTree:
    """Return the tree of a file or folder. Files that have not changed since they were read are not read again."""
    with kept_hashes(path) as hashes:
        if path.is_file():
            return hash_file(path, hashes)
        return hash_tree(path, obey_ignore_files=False, hashes=hashes)


class Distribution:
    """The delivery of one data source to nodes. ``errors`` holds the last error of each node without the data."""

    def __init__(
        self,
        opened: OpenCluster,
        source: DataSource,
        path: Path,
        tree: LocalTree,
        rate: float | None,
        display: Display,
        label: str,
    ) -> None:
        self.label = label
        self.hosts = {host.name: host for host in opened.all_hosts}
        self.source, self.path, self.tree = source, path, tree
        self.rate, self.display = rate, display
        self.errors: dict[str, OrchError] = {}
        # For each node that gets the data over a shared disk, the node that writes to the disk.
        self.through: dict[str, str] = {}

    def run(self, nodes: Sequence[Node]) -> list[OrchError]:
        """Make passes while each brings progress. Return the errors of the nodes that still lack something."""
        waiting, before = list(nodes), -1
        while waiting:
            relays = self.ask(waiting)
            lacking = sum(relay.lacking.size(self.tree.entries) for relay in relays)
            if lacking == before:
                for relay in relays:
                    relay.close()
                break
            before = lacking
            waiting = self.reachable(self.one_pass(relays)) if relays else []
        self.note(
            [
                SyncError(f"shares a disk with {first}, which did not get all data", host=name)
                for name, first in self.through.items()
                if first in self.errors
            ]
        )
        return list(self.errors.values())

    def ask(self, nodes: Sequence[Node]) -> list[RelayCall]:
        """Ask the nodes what they lack. Return the calls of those that lack something, one per disk."""

        def ask(node: Node) -> RelayCall:
            return ask_lacking(node, self.hosts[node.name].workdir, self.source, self.path, self.tree)

        with self.display.stage(f"asking {counted(len(nodes), 'host')} what they have of {self.label}"):
            asked = on_all(nodes, ask, limit=len(nodes))
        self.note(failures(asked))
        found = []
        for first, *others in groups_by_disk([each for each in asked if isinstance(each, RelayCall)]):
            for relay in others:
                self.errors.pop(relay.node.name, None)
                self.through[relay.node.name] = first.node.name
                relay.close()
            if first.lacking.files:
                found.append(first)
            else:
                self.errors.pop(first.node.name, None)
                first.close()
        return found

    def one_pass(self, relays: Sequence[RelayCall]) -> list[Node]:
        """Send the missing bytes through all nodes once. Return the nodes that still lack something."""
        files = to_send([relay.lacking for relay in relays], self.tree.entries)
        heads = self.linked(relays, files)
        size = Lacking(dict(files)).size(self.tree.entries)
        outcomes: dict[str, Received] = {}
        doing = f"sending {self.label}, {size / 1e6:.1f} MB, through {counted(len(relays), 'host')}"
        with (
            self.display.stage(doing),
            self.display.transfer(self.label, {relay.node.name: size for relay in relays}) as transfer,
        ):

            def receive(relay: RelayCall) -> None:
                name = relay.node.name
                outcomes[name] = relay.result(lambda done: transfer.at(name, done))
                if outcomes[name].complete:
                    transfer.at(name, size)

            def feed(relay: RelayCall) -> None:
                share = self.rate and self.rate / len(heads)
                relay.feed(contents(self.tree, files, share))

            jobs = [(receive, relay) for relay in relays] + [(feed, relay) for relay in heads]
            self.note(failures(on_all(jobs, lambda job: job[0](job[1]), limit=len(jobs))))
        left = []
        for relay in relays:
            name, outcome = relay.node.name, outcomes.get(relay.node.name)
            if outcome is not None and outcome.complete and not outcome.damaged:
                self.errors.pop(name, None)
                continue
            left.append(relay.node)
            if outcome is not None:
                what = ", ".join(map(repr, outcome.damaged[:4]))
                said = f"{what} arrived damaged or changed during the transfer" if what else "the data ended early"
                self.note([SyncError(said, remedy="run the command again", host=name)])
        return left

    def linked(self, relays: Sequence[RelayCall], files: Sequence[tuple[int, int]]) -> list[RelayCall]:
        """Tell every node its own token and its successor. Return the calls to feed from this machine."""
        tokens = [secrets.token_hex(16) for _ in relays]
        listeners = self.listening(relays)

        def order(position: int) -> str | None:
            hop = None
            if position + 1 < len(relays):
                addresses, port = listeners[position + 1]
                hop = NextNode(addresses=tuple(addresses), port=port, token=tokens[position + 1])
            return relays[position].order(tokens[position], hop, files)

        answers = on_all(range(len(relays)), order, limit=len(relays))
        self.note(failures(answers))
        heads = [relays[0]]
        for relay, after, answer in zip(relays, relays[1:], answers, strict=False):
            if answer != "ok":
                why = f" ({answer})" if isinstance(answer, str) else ""
                name = after.node.name
                self.display.note(
                    f"{name} cannot be reached from {relay.node.name}{why}: it gets the data from this machine"
                )
                heads.append(after)
        return heads

    def listening(self, relays: Sequence[RelayCall]) -> list[tuple[list[str], int]]:
        """Let each node listen for its predecessor. Return each node's addresses and port; on failure, ([], 0)."""

        def listen(relay: RelayCall) -> tuple[list[str], int]:
            others = [each.addresses for each in relays if each is not relay]
            at = listen_addresses(self.hosts[relay.node.name], relay.addresses, others)
            return at, relay.listen(at)

        found = on_all(relays, listen, limit=len(relays))
        self.note(failures(found))
        return [([], 0) if isinstance(each, OrchError) else each for each in found]

    def reachable(self, nodes: Sequence[Node]) -> list[Node]:
        """Make broken connections again. Return the nodes that can be reached."""

        def reopen(node: Node) -> None:
            if not node.connection.alive or isinstance(self.errors.get(node.name), ConnectionLost):
                node.connection.reopen(REOPEN)

        outcomes = on_all(nodes, reopen, limit=len(nodes) or 1)
        self.note(failures(outcomes))
        there = [node for node, outcome in zip(nodes, outcomes, strict=True) if not isinstance(outcome, OrchError)]
        if there:
            names = ", ".join(node.name for node in there[:8])
            self.display.note(f"resuming the transfer to {names}{' and others' if len(there) > 8 else ''}")
        return there

    def note(self, errors: Sequence[OrchError]) -> None:
        """Keep each node's error until the node has its data. Raise an error of this machine at once."""
        for error in errors:
            if error.host is None:
                # An error of this machine fails the delivery to every node.
                raise error
            self.errors[error.host] = error


@contextmanager
def kept_hashes(path: Path) -> Iterator[Hashes]:
    """Yield the hashes of files read earlier under ``path``, and save them in the user's cache folder."""
    cache = cache_folder()
    file = cache / f"hashes-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]}.json"
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    hashes = Hashes(known)
    yield hashes
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}")
        partial.write_text(json.dumps(hashes.now))
        partial.replace(file)


def cache_folder() -> Path:
    """Return the user's cache folder for orch."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orch"
