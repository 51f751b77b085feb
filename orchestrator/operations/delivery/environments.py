"""The environments that the inventory asks for, on every node: built where they are not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.inventory.hosts import DataSource
from orchestrator.errors import HostErrors, OrchError, SyncError
from orchestrator.local.wheels import fetch
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.data import cache_folder, send_data
from orchestrator.remote.environment import Build, BuildFailure, has_environment
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.shared_disk import groups_by_disk
from orchestrator.ui.display import Display

# Where wheels lie on a node until its environment is built; the host's workdir is filled in.
WHEELS = "{workdir}/.orch/wheels/"


def lacking(opened: OpenCluster, nodes: Sequence[Node]) -> list[Node]:
    """The nodes whose environment is not there; raises HostErrors. One round trip."""
    asked = [node for node in nodes if node.name in opened.environments]
    workdirs = {host.name: host.workdir for host in opened.all_hosts}

    def there(node: Node) -> bool:
        return has_environment(node, workdirs[node.name], opened.environments[node.name])

    known = on_all(asked, there, limit=opened.fanout)
    if errors := failures(known):
        raise HostErrors(errors, len(nodes))
    return [node for node, has in zip(asked, known, strict=True) if not has]


def ensure(opened: OpenCluster, nodes: Sequence[Node], display: Display, *, offline: bool = False) -> None:
    """Build the environments that are not there, on all nodes at once; raises HostErrors, SyncError.

    Nodes that reach no packages, with ``offline`` all of them, get wheels from here.
    """
    waiting = lacking(opened, nodes)
    if not waiting:
        return
    names = sorted({opened.environments[node.name].source for node in waiting})
    with display.stage(f"building the environment of {', '.join(names)} on {len(waiting)} hosts"):
        remote = [] if offline else waiting
        failed, errors = build(opened, remote, None, display)
        cut_off = [node for node in waiting if offline or (node.name in failed and failed[node.name].offline)]
        for name, each in failed.items():
            if not each.offline:
                errors.append(failure(name, each))
        if cut_off:
            folders = fetch_for(opened, cut_off, display, told=not offline)
            again, more = build(opened, cut_off, folders, display)
            errors += [*more, *(failure(name, each) for name, each in again.items())]
    if errors:
        raise HostErrors(errors, len(nodes))


def build(
    opened: OpenCluster, nodes: Sequence[Node], wheels: dict[str, str] | None, display: Display
) -> tuple[dict[str, BuildFailure], list[OrchError]]:
    """Build on these nodes; how some failed, and what else went wrong. Nodes that share a disk build once."""
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
                        (f"it shares its workdir with {name}, but has {mine}, not {theirs}",)
                    )
                elif not has_environment(other.node, other.workdir, environments[other.node.name]):
                    failed[other.node.name] = BuildFailure(
                        (f"it does not see what {name} built on the disk they share",)
                    )

        waiting = [each for each in asked if isinstance(each, Build) and not each.ready]
        groups = groups_by_disk(waiting, lambda each: environments[each.node.name].key)
        errors += failures(on_all(groups, run, limit=len(groups) or 1))
    return failed, errors


def fetch_for(opened: OpenCluster, nodes: Sequence[Node], display: Display, *, told: bool) -> dict[str, str]:
    """Wheels on these nodes; the folder of each. Raises SyncError, HostErrors."""
    workdirs = {host.name: host.workdir for host in opened.all_hosts}
    if told:
        names = ", ".join(node.name for node in nodes)
        display.note(f"{names}: no package index is reached from there; wheels go from here")
    kinds: dict[Path, list[Node]] = {}
    for node in nodes:
        environment = opened.environments[node.name]
        asked = Build(node, workdirs[node.name], environment)
        asked.close()
        if asked.ready:
            # Somebody else has built it meanwhile.
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
    """A build that failed, with the resolver's words."""
    words = "\n    ".join(failed.words)
    return SyncError(f"the environment cannot be built:\n    {words}", remedy="see what pip says above", host=name)
