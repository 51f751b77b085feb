"""The data of a run: those that the inventory and the script name, which nodes lack some, and their delivery."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import DataSource
from orchestrator.core.text.counted import counted
from orchestrator.core.transfer.data import named_on_node, target_on_node
from orchestrator.core.transfer.local_tree import LocalTree
from orchestrator.core.transfer.needs import CONSTANT, Need, needs_of
from orchestrator.errors import HostErrors, PreflightError, SyncError, UsageError
from orchestrator.local.datasets import KNOWN, cached, fetched
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.consent import agreed_to, outside
from orchestrator.operations.delivery.data import cache_folder, read_data, send_data
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.source import Source
from orchestrator.protocol.facts import DataCheck
from orchestrator.protocol.tree import tree_id
from orchestrator.remote.node import Node
from orchestrator.ui.display import Display

# Most nodes that a message names one by one.
NAMED = 4


@dataclass(frozen=True)
class RunData:
    """Data that every node of a run must have.

    ``tree``: what ``source`` holds on this machine; None for a known data set, and if it is not here.
    ``need``: the script's declaration; None if the inventory names the data.
    ``agreed``: whether the data may be sent unasked.
    """

    source: DataSource
    tree: LocalTree | None = None
    need: Need | None = None
    agreed: bool = True

    @property
    def name(self) -> str:
        """What messages call the data: a known name, or the last part of the path."""
        return Path(self.source.path).name

    def checks(self, workdir: str) -> tuple[DataCheck, ...]:
        """Return what to look for on a node: one of these must be there."""
        path = Path(self.source.path)
        known = KNOWN.get(self.source.path)
        if known is not None:
            root, _ = target_on_node(self.source, known.folder, False, workdir)
            return (DataCheck(workdir=workdir, root=root, files=known.alternatives),)
        if self.tree is None:
            target, _ = target_on_node(self.source, path.name, False, workdir)
            return (_exists(workdir, target),)
        root, name = target_on_node(self.source, path.name, path.is_file(), workdir)
        rows = (entry.row for entry in named_on_node(self.tree, name))
        arrived = DataCheck(workdir=workdir, root=root, tree=tree_id(rows))
        # The script takes a file of the node with the path that the user gave before one that orch sent.
        return (arrived, _exists(workdir, str(path))) if self.need and self.need.file else (arrived,)


def _exists(workdir: str, path: str) -> DataCheck:
    return DataCheck(workdir=workdir, root=posixpath.dirname(path) or ".", files=((posixpath.basename(path),),))


def data_of_run(opened: OpenCluster, options: RunOptions, display: Display) -> tuple[RunData, ...]:
    """Return the data of the inventory and of the script, as far as the script's arguments do not excuse them.

    Raises UsageError if the script's declaration is wrong, SyncError if data cannot be read.
    """
    if not options.data:
        return ()
    found = [*_of_inventory(opened, display)]
    sent = {each.source for each in found}
    found += [each for each in _of_script(options, display) if each.source not in sent]
    return tuple(found)


def _of_inventory(opened: OpenCluster, display: Display) -> Iterator[RunData]:
    for each in opened.inventory.data:
        if each.path in KNOWN:
            yield RunData(each)
            continue
        source = replace(each, path=str(opened.beside / Path(each.path).expanduser()))
        tree = read_data(source, display)[1] if Path(source.path).exists() else None
        yield RunData(source, tree, agreed=not outside(opened.beside, [source]))


def _of_script(options: RunOptions, display: Display) -> Iterator[RunData]:
    script, args = script_file(options.source), options.spec.args
    if script is None:
        return
    text = script.read_text(encoding="utf-8", errors="replace")
    for need in needs_of(text, script.name):
        folder = need.value(need.folder, args)
        # Only the script can find a folder that is relative to its working folder.
        if need.excused(args) or (folder is not None and not posixpath.isabs(folder)):
            continue
        if need.file is not None:
            path = Path(need.value(need.file, args) or "").expanduser().absolute()
            # The user has named this very file, so nobody is asked. One that is not here may be on the nodes.
            if path.is_file():
                source = DataSource(str(path), None)
                yield RunData(source, read_data(source, display)[1], need)
        elif need.data in KNOWN:
            to = None if folder is None else f"{folder}/{KNOWN[need.data].folder}"
            yield RunData(DataSource(need.data, to), None, need, agreed=False)
        elif need.data is not None:
            path = script.parent / Path(need.data).expanduser()
            source = DataSource(str(path), None if folder is None else f"{folder}/{path.name}")
            tree = read_data(source, display)[1] if path.exists() else None
            yield RunData(source, tree, need, agreed=False)


def script_file(source: Source) -> Path | None:
    """Return the file of a run's script or module on this machine; None if it is not a file of the project."""
    folder, target = source.root / source.workload.cwd, source.workload.target
    if source.workload.kind == "script":
        names = [target]
    else:
        base = target.replace(".", "/")
        names = [f"{base}.py", f"{base}/__main__.py"]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def lacking(
    data: Sequence[RunData], nodes: Sequence[Node], facts: Mapping[str, Facts]
) -> list[tuple[int, list[Node]]]:
    """Return the position of all data that some node lacks, with these nodes, from the answers to ``checks``."""
    found, at = [], 0
    for position, each in enumerate(data):
        end = at + len(each.checks("~"))
        without = [node for node in nodes if not any(facts[node.name].data[at:end])]
        if without:
            found.append((position, without))
        at = end
    return found


def deliver_data(
    opened: OpenCluster,
    data: Sequence[RunData],
    nodes: Sequence[Node],
    facts: Mapping[str, Facts],
    options: RunOptions,
    agree: Callable[[str], bool] | None,
    display: Display,
) -> tuple[RunData, ...]:
    """Send data to the nodes that lack them, with the user's consent. Return ``data`` with what was agreed to.

    ``agree`` is asked before data are sent that the user did not name; None: no user can be asked. Raises
    PreflightError or UsageError without consent, UsageError if data are not here, SyncError, and HostErrors.
    """
    absent = lacking(data, nodes, facts)
    if not options.sync and absent:
        refused = [
            SyncError(f"lacks {each.name}", remedy=f"run {_sync(each)}, or leave out --no-sync", host=node.name)
            for each, without in ((data[at], without) for at, without in absent)
            for node in without
        ]
        raise HostErrors(refused, len(nodes))
    agreed = list(data)
    for at, without in absent:
        agreed[at] = _agreed(opened, data[at], without, options, agree)
    for at, without in absent:
        source, known = data[at].source, KNOWN.get(data[at].source.path)
        if known is not None:
            with display.stage(f"getting {source.path}") as stage:
                there = cached(source.path, cache_folder())
                stage.result = f"downloaded {known.download / 1e6:.1f} MB" if there is None else "it is here"
                source = replace(source, path=str(there or fetched(source.path, cache_folder())))
        send_data(opened, without, source, None, display, label=data[at].name)
    return tuple(agreed)


def _agreed(
    opened: OpenCluster,
    data: RunData,
    without: Sequence[Node],
    options: RunOptions,
    agree: Callable[[str], bool] | None,
) -> RunData:
    """Return the data with the user's consent to send them. Raises UsageError, PreflightError."""
    inventory, script = opened.inventory.source, options.spec.workload.name
    names = ", ".join(node.name for node in without) if len(without) <= NAMED else counted(len(without), "host")
    lack = f"{names} {'lacks' if len(without) == 1 else 'lack'}"
    if data.source.path not in KNOWN and data.tree is None:
        key = f"{inventory}: data" if data.need is None else f"{script}: {CONSTANT}"
        raise UsageError(f"{key}: {data.source.path}: no such file or folder on this machine, and {lack} it")
    if data.agreed:
        return data
    if data.need is None:
        agreed_to(outside(opened.beside, [data.source]), opened.beside / inventory, agree)
        return replace(data, agreed=True)
    what, how = f"{script} needs {data.name}, which {lack}", _transfer(data)
    if agree is None or not agree(f"{what}. {how[0].upper()}{how[1:]}?"):
        excuse = f", or give {script} {data.need.ways_out}" if data.need.unless else ""
        raise PreflightError(what, remedy=f"pass --yes to {how}, or run {_sync(data)} before{excuse}")
    return replace(data, agreed=True)


def _transfer(data: RunData) -> str:
    """Return what sending the data takes, with the sizes."""
    known = KNOWN.get(data.source.path)
    size = known.size if known else data.tree.size if data.tree else 0
    if known and cached(data.source.path, cache_folder()) is None:
        return f"download {_shown(known.download)} to this machine and pass {_shown(size)} on from host to host"
    return f"send {_shown(size)}, passed on from host to host"


def _shown(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else counted(size, "byte")


def _sync(data: RunData) -> str:
    """Return the command that sends the data alone."""
    if data.need is None:
        return "orch sync"
    path, here = data.source.path, Path.cwd()
    if path not in KNOWN and Path(path).is_relative_to(here):
        path = str(Path(path).relative_to(here))
    return "orch sync --data " + shlex.quote(path + (f":{data.source.to}" if data.source.to else ""))
