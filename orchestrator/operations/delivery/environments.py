"""The environments that the inventory asks for: built on every node that lacks its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.inventory.hosts import DataSource
from orchestrator.core.text.counted import counted
from orchestrator.errors import HostErrors, OrchError, SyncError
from orchestrator.local.wheels import fetch
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.data import cache_folder, send_data
from orchestrator.remote.environment import Build, BuildFailure, has_environment
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.shared_disk import groups_by_disk
from orchestrator.ui.display import Display

# Folder of the wheels on a node until its environment is built. ``{workdir}`` is the host's.
WHEELS = "{workdir}/.orch/wheels/"


def lacking(opened: OpenCluster, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that lack their environment, after one round trip. Raises HostErrors."""
    asked = [node for node in nodes if node.name in opened.environments]
    workdirs = {host.name: host.workdir for host in opened.all_hosts}

    def there(node: Node) -> bool:
        return has_environment(node, workdirs[node.name], opened.environments[node.name])

    known = on_all(asked, there, limit=opened.fanout)
    if errors := failures(known):
        raise HostErrors(errors, len(nodes))
    return [node for node, has in zip(asked, known, strict=True) if not has]


def ensure(opened: OpenCluster, nodes: Sequence[Node], display: Display, *, offline: bool = False) -> None:
    """Build the missing environments on all nodes at once. Raises HostErrors, SyncError.

    Nodes that reach no package index get wheels from this machine; with ``offline``, all nodes do.
    """
    waiting = lacking(opened, nodes)
    if not waiting:
        return
    names = sorted({opened.environments[node.name].source for node in waiting})
    with display.stage(f"building the environment of {', '.join(names)} on {counted(len(waiting), 'host')}"):
        remote = [] if offline else waiting
        failed, errors = build(opened, remote, None, display)
        cut_off = [node for node in waiting if offline or (node.name in failed and failed[node.name].offline)]
        for name, each in failed.items():
            if not each.offline:
                errors.append(failure(name, each))
        if cut_off:
            folders = send_wheels(opened, cut_off, display, told=not offline)
            again, more = build(opened, cut_off, folders, display)
            errors += [*more, *(failure(name, each) for name, each in again.items())]
    if errors:
        raise HostErrors(errors, len(nodes))


def build(
    opened: OpenCluster, nodes: Sequence[Node], wheels: dict[str, str] | None, display: Display
) -> tuple[dict[str, BuildFailure], list[OrchError]]:
    """Build the environments of these nodes, once for each shared disk.

    ``wheels`` holds each node's folder of wheels; with None, nodes fetch packages themselves. Returns the failed
    builds by node, and other errors.
    """
    workdirs = {host.name: host.workdir for host in opened.all_hosts}
    environments = opened.environments
    asked = on_all(
        nodes, lambda node: Build(node, workdirs[node.name], environments[node.name]), limit=len(nodes) or 1
    )
    errors = failures(asked)
    failed: dict[str, BuildFailure] = {}
    with display.saying({node.name for node in nodes}) as said:

        def run(group: Sequence[Build]) -> None:
            first, *others = group
            name = first.node.name
            for other in others:
                other.close()
            outcome = first.run(wheels[name] if wheels else None, lambda line: said.line(name, line))
            if outcome is not None:
                failed.update(dict.fromkeys((name, *(other.node.name for other in others)), outcome))
                return
            said.done(name)
            for other in others:
                if other.kind != first.kind:
                    mine, theirs = (" ".join(each.kind) for each in (other, first))
                    failed[other.node.name] = BuildFailure(
                        (f"the host shares its workdir with {name}, but has {mine}, not {theirs}",)
                    )
                elif not has_environment(other.node, other.workdir, environments[other.node.name]):
                    failed[other.node.name] = BuildFailure(
                        (f"the host does not see what {name} built on the disk that they share",)
                    )

        waiting = [each for each in asked if isinstance(each, Build) and not each.ready]
        groups = groups_by_disk(waiting, lambda each: environments[each.node.name].key)
        errors += failures(on_all(groups, run, limit=len(groups) or 1))
    return failed, errors


def send_wheels(opened: OpenCluster, nodes: Sequence[Node], display: Display, *, told: bool) -> dict[str, str]:
    """Fetch wheels here and send them to these nodes. Return each node's folder of wheels.

    ``told``: tell the user why. Raises SyncError, HostErrors.
    """
    workdirs = {host.name: host.workdir for host in opened.all_hosts}
    if told:
        names = ", ".join(node.name for node in nodes)
        display.note(f"{names}: no package index can be reached from there; this machine sends the wheels")
    kinds: dict[Path, list[Node]] = {}
    for node in nodes:
        environment = opened.environments[node.name]
        asked = Build(node, workdirs[node.name], environment)
        asked.close()
        if asked.ready:
            # Another sync has built the environment meanwhile.
            continue
        kinds.setdefault(fetch(environment, asked.kind, cache_folder()), []).append(node)
    for folder, members in kinds.items():
        send_data(
            opened, members, DataSource(str(folder), WHEELS + folder.name), None, display, label="the wheels"
        )
    return {
        node.name: f"{workdirs[node.name]}/.orch/wheels/{folder.name}"
        for folder, members in kinds.items()
        for node in members
    }


def failure(name: str, failed: BuildFailure) -> SyncError:
    """Return the error for a failed build, with the last output of pip or uv."""
    words = "\n    ".join(failed.words)
    return SyncError(
        f"the environment cannot be built:\n    {words}", remedy="correct the cause shown above", host=name
    )
