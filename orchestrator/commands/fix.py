"""``orch doctor --fix``: the mends that need no root, one by one, each said before it is done."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.commands.session import Session
from orchestrator.core.addresses import candidates
from orchestrator.core.edit import set_host_key
from orchestrator.core.findings import Examined, Finding
from orchestrator.core.inventory import Host
from orchestrator.core.reading import INTERFACE
from orchestrator.display import Display
from orchestrator.errors import AuthenticationFailed, HostKeyUnknown, OrchError, PreflightError
from orchestrator.remote.keys import install_key
from orchestrator.remote.node import Node
from orchestrator.remote.ssh import Connection, Settings, connections

GRACE = 5.0


@dataclass(frozen=True)
class Mend:
    """Something that can be mended: what will be done, and the doing; that may raise OrchError."""

    will: str
    do: Callable[[], object]


def mend(
    opened: Session,
    hosts_file: Path,
    examined: Examined,
    findings: Sequence[Finding],
    errors: Sequence[OrchError],
    agree: Callable[[str], bool],
    display: Display,
) -> int:
    """Offer each mend; returns how many were made. ``agree`` is asked before each."""
    made = 0
    for each in (*_of_errors(opened, errors), *_of_findings(opened, hosts_file, examined, findings)):
        if agree(each.will):
            try:
                each.do()
                made += 1
            except OrchError as error:
                display.error(error)
    return made


def _of_errors(opened: Session, errors: Sequence[OrchError]) -> Iterator[Mend]:
    hosts = {host.name: host for host in opened.hosts}
    for error in errors:
        host = hosts.get(error.host or "")
        if host is None:
            continue
        if isinstance(error, HostKeyUnknown):
            will = f"{host.name}: record this key in ~/.ssh/known_hosts? {error.message}"
            yield Mend(will, _accept(opened, host))
        elif isinstance(error, AuthenticationFailed):
            where = f"{host.user + '@' if host.user else ''}{host.address}"
            will = f"{host.name}: run ssh-copy-id {where}? It will ask for a password"
            yield Mend(will, partial(install_key, host))


def _accept(opened: Session, host: Host) -> Callable[[], object]:
    def do() -> None:
        usual = next(link for link in opened.links if link.host.name == host.name).settings
        (link,) = connections([host], Settings(usual.connect_timeout, accept_new_host_keys=True))
        link.open()
        link.close()

    return do


def _of_findings(
    opened: Session, hosts_file: Path, examined: Examined, findings: Sequence[Finding]
) -> Iterator[Mend]:
    links = {link.host.name: link for link in opened.links}
    hosts = {host.name: host for host in examined.hosts}
    for finding in findings:
        name = finding.nodes[0]
        if finding.check == "busy":
            for run_id in examined.facts[name].leftovers:
                will = f"{name}: end the processes that run {run_id} left over there?"
                yield Mend(will, partial(Node(links[name]).stop, run_id, GRACE))
        elif finding.check == "disk" and "mkdir -p" in finding.remedy:
            folder = examined.part(name, "disks")["/tmp"]["path"]
            yield Mend(f"{name}: make the folder {folder}?", partial(_make_folder, links[name], folder))
        elif finding.check == "interface" and not finding.pair:
            plain = replace(hosts[name], fabric_address=None)
            better = next(iter(candidates(plain, examined.facts, examined.hosts)), None)
            if better is None:
                continue
            on = next(each.interface for each in examined.facts[name].addresses if each.address == better)
            if not INTERFACE.match(on):
                continue
            key, value = ("fabric_address", better) if "fabric_address" in finding.what else ("interface", on)
            yield Mend(f"{hosts_file}: set hosts.{name}.{key} to {value}?", _edit(hosts_file, name, key, value))


def _make_folder(link: Connection, folder: str) -> None:
    channel = link.command(shlex.join(["mkdir", "-p", "--", folder]))
    channel.end_input()
    _, err = channel.output()
    if channel.exit_code():
        said = err.decode("utf-8", "replace").strip()
        raise PreflightError(f"{folder} could not be made: {said}", remedy="make it by hand", host=link.host.name)


def _edit(hosts_file: Path, name: str, key: str, value: str) -> Callable[[], object]:
    def do() -> None:
        changed = set_host_key(hosts_file.read_text(encoding="utf-8"), name, key, value)
        handle, new = tempfile.mkstemp(dir=hosts_file.parent, prefix=f".{hosts_file.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(changed)
        Path(new).chmod(hosts_file.stat().st_mode)
        Path(new).replace(hosts_file)

    return do
