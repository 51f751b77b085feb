"""The images of containers: what each host's engine has, and bringing a missing image to all hosts at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from orchestrator.core.checks.containers import unusable
from orchestrator.core.inventory.hosts import DataSource, Host
from orchestrator.core.inventory.sections.container import Container
from orchestrator.errors import HostErrors, OrchError, PreflightError, SyncError
from orchestrator.local.images import ImageArchive, Unpacked, archive_of, saved, unpacked
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.data import cache_folder, send_data
from orchestrator.protocol.container.image import LOAD, LOOK, PULL, AskImage, EngineFacts
from orchestrator.remote.container.image import ask_image
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.ui.display import Display

# Folder of the layers that this machine sends, named by their hashes, relative to the workdir.
LAYERS = ".orch/images/layers"


def engines(opened: OpenCluster, nodes: Sequence[Node]) -> tuple[dict[str, EngineFacts], list[OrchError]]:
    """Return the facts of the engine on each node whose host has a container, and the errors of other nodes."""
    hosts = _contained(opened, nodes)
    asked = [node for node in nodes if node.name in hosts]

    def look(node: Node) -> EngineFacts:
        return ask_image(node, _request(hosts[node.name], LOOK))

    outcomes = on_all(asked, look, limit=opened.fanout)
    found = {
        node.name: outcome
        for node, outcome in zip(asked, outcomes, strict=True)
        if not isinstance(outcome, OrchError)
    }
    return found, failures(outcomes)


def ensure_images(opened: OpenCluster, nodes: Sequence[Node], display: Display) -> dict[str, EngineFacts]:
    """Bring the missing images to all nodes at once, and return the facts of the engines by node.

    Raises HostErrors if an engine cannot be used or an image cannot be had, SyncError, UsageError.
    """
    hosts = _contained(opened, nodes)
    if not hosts:
        return {}
    found, errors = engines(opened, nodes)
    for name, known in found.items():
        problem = unusable(hosts[name], known, hosts[name].user or "this user")
        if problem is not None:
            errors.append(PreflightError(problem[0], remedy=problem[1], host=name))
    if errors:
        raise HostErrors(errors, len(nodes))
    lacking = [node for node in nodes if node.name in found and found[node.name].image_id is None]
    if lacking:
        found |= Delivery(opened, hosts, display).bring(lacking)
    return found


class Delivery:
    """The delivery of images to nodes whose engines lack them."""

    def __init__(self, opened: OpenCluster, hosts: Mapping[str, Host], display: Display) -> None:
        self.opened, self.hosts, self.display = opened, hosts, display

    def bring(self, lacking: Sequence[Node]) -> dict[str, EngineFacts]:
        """Bring its image to each node: pull it, or send it if it is an archive or cannot be pulled from there.

        Return the facts of the engines. Raises HostErrors, SyncError, UsageError.
        """
        found: dict[str, EngineFacts] = {}
        archives: dict[str, ImageArchive] = {}
        sent = [node for node in lacking if self.container(node).archive is not None]
        pulled = [node for node in lacking if node not in sent]
        for node in sent:
            asked = self.container(node)
            archives.setdefault(asked.image, archive_of(Path(asked.archive or "")))
        if pulled:
            found |= self.on_each(pulled, "pulling", dict.fromkeys((node.name for node in pulled), _pull))
            without = [node for node in pulled if found[node.name].image_id is None]
            ours = self.saved_here({self.container(node).image for node in without})
            for node in without:
                image = self.container(node).image
                if image in ours and found[node.name].engine != "apptainer":
                    why = _last_word(found[node.name])
                    self.display.note(f"{node.name}: {why}; this machine sends {image}")
                    sent.append(node)
            archives |= ours
        if sent:
            found |= self.send(sent, archives)
        errors = [self.failure(node, found[node.name]) for node in lacking if found[node.name].image_id is None]
        if errors:
            raise HostErrors(errors, len(self.hosts))
        return found

    def container(self, node: Node) -> Container:
        """Return the container of the node's host."""
        container = self.hosts[node.name].container
        assert container is not None
        return container

    def saved_here(self, images: set[str]) -> dict[str, ImageArchive]:
        """Return archives of the images that an engine of this machine has."""
        found = {image: saved(image, cache_folder()) for image in sorted(images)}
        return {image: archive for image, archive in found.items() if archive is not None}

    def send(self, nodes: Sequence[Node], archives: Mapping[str, ImageArchive]) -> dict[str, EngineFacts]:
        """Send to each node the layers that it lacks, and let its engine load them. Return the engines' facts."""
        requests: dict[str, Callable[[Host], AskImage]] = {}
        for image, archive in archives.items():
            users = [node for node in nodes if self.container(node).image == image]
            if not users:
                continue
            with self.display.stage(f"reading {archive.path}"):
                pieces = unpacked(archive, cache_folder())
            source = DataSource(str(pieces.folder), f"{{workdir}}/{LAYERS}")
            send_data(self.opened, users, source, None, self.display, label=f"the image {image}")
            for node in users:
                requests[node.name] = partial(_load, pieces=pieces)
        return self.on_each(nodes, "loading", requests)

    def on_each(
        self, nodes: Sequence[Node], doing: str, requests: Mapping[str, Callable[[Host], AskImage]]
    ) -> dict[str, EngineFacts]:
        """Let each node pull or load its image, and return the facts of the engines. Raises HostErrors."""
        images = ", ".join(sorted({self.container(node).image for node in nodes}))
        count = f"{len(nodes)} host{'' if len(nodes) == 1 else 's'}"
        names = {node.name for node in nodes}
        with self.display.stage(f"{doing} {images} on {count}"), self.display.saying(names) as said:

            def ask(node: Node) -> EngineFacts:
                request = requests[node.name](self.hosts[node.name])
                known = ask_image(node, request, lambda line: said.line(node.name, line))
                if known.image_id is not None:
                    said.done(node.name, "pulled" if request.how == PULL else "loaded")
                return known

            outcomes = on_all(nodes, ask, limit=len(nodes))
        if errors := failures(outcomes):
            raise HostErrors(errors, len(self.hosts))
        return {
            node.name: outcome
            for node, outcome in zip(nodes, outcomes, strict=True)
            if not isinstance(outcome, OrchError)
        }

    def failure(self, node: Node, known: EngineFacts) -> SyncError:
        """Return the error for an image that a node could neither pull nor load."""
        asked = self.container(node)
        if asked.archive is not None:
            what = f"{known.engine} cannot load {asked.image}: {_last_word(known)}"
            return SyncError(what, remedy=f"save the image again: {asked.archive}", host=node.name)
        what = f"the image {asked.image} is not there, and {known.engine} cannot pull it: {_last_word(known)}"
        remedy = "correct image:, or name an archive of docker save, which orch sends: image: ./image.tar"
        return SyncError(what, remedy=remedy, host=node.name)


def _pull(host: Host) -> AskImage:
    return _request(host, PULL)


def _load(host: Host, pieces: Unpacked) -> AskImage:
    layers = {name: f"{LAYERS}/{file}" for name, file in pieces.layers.items()}
    return _request(host, LOAD).replace(layers=layers, files=dict(pieces.files))


def _request(host: Host, how: str) -> AskImage:
    assert host.container is not None
    return AskImage(engine=host.container.engine, image=host.container.image, workdir=host.workdir, how=how)


def _contained(opened: OpenCluster, nodes: Sequence[Node]) -> dict[str, Host]:
    """Return the hosts of these nodes that have a container, by name."""
    names = {node.name for node in nodes}
    return {host.name: host for host in opened.all_hosts if host.name in names and host.container is not None}


def _last_word(known: EngineFacts) -> str:
    """Return the last line of the engine, without the word that marks it as an error."""
    return (known.failed or ("it printed nothing",))[-1].removeprefix("Error: ")
