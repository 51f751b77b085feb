"""``orch doctor --fix``: offers the mends that need no root one by one, and makes those that are agreed to."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile

from orchestrator.core.checks.findings import EndLeftovers, Finding, MakeFolder, SetKey
from orchestrator.core.inventory.edit import set_host_value
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.errors import AuthenticationFailed, HostKeyUnknown, OrchError, PreflightError, UsageError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.remote.keys import install_key
from orchestrator.remote.node import Node
from orchestrator.remote.ssh.connection import Connection, connections
from orchestrator.ui.display import Display

GRACE = 5.0


@dataclass(frozen=True)
class PossibleMend:
    """A mend to offer. ``will`` is the question to ask; ``do`` makes the mend, and may raise OrchError.

    ``possible`` raises OrchError if the mend cannot be made, and so must not be offered.
    """

    will: str
    do: Callable[[], object]
    possible: Callable[[], object] = lambda: None


def mend(
    opened: OpenCluster,
    hosts_file: Path,
    findings: Sequence[Finding],
    errors: Sequence[OrchError],
    agree: Callable[[str], bool],
    display: Display,
) -> int:
    """Ask ``agree`` about each mend, make those that are agreed to, and return their number."""
    made = 0
    for each in chain(_of_errors(opened, errors), _of_findings(opened, hosts_file, findings)):
        try:
            each.possible()
            if agree(each.will):
                each.do()
                made += 1
        except OrchError as error:
            display.error(error)
    return made


def _of_errors(opened: OpenCluster, errors: Sequence[OrchError]) -> Iterator[PossibleMend]:
    hosts = {host.name: host for host in opened.hosts}
    for error in errors:
        host = hosts.get(error.host or "")
        if host is None:
            continue
        if isinstance(error, HostKeyUnknown):
            will = f"{host.name}: record this key in ~/.ssh/known_hosts? {error.message}"
            yield PossibleMend(will, _accept(opened, host, error.fingerprint))
        elif isinstance(error, AuthenticationFailed):
            where = f"{host.user + '@' if host.user else ''}{host.address}"
            will = f"{host.name}: run ssh-copy-id {where}? It will ask for a password"
            yield PossibleMend(will, partial(install_key, host))


def _accept(opened: OpenCluster, host: Host, fingerprint: str) -> Callable[[], object]:
    def do() -> None:
        usual = next(link for link in opened.links if link.host.name == host.name).settings
        # Accept this key only: another machine may answer now than when the user saw the fingerprint.
        (link,) = connections([host], Settings(usual.connect_timeout, accept_fingerprint=fingerprint))
        link.open()
        link.close()

    return do


def _of_findings(opened: OpenCluster, hosts_file: Path, findings: Sequence[Finding]) -> Iterator[PossibleMend]:
    links = {link.host.name: link for link in opened.links}
    for finding in findings:
        name = finding.nodes[0]
        match finding.mend:
            case EndLeftovers(run_id):
                will = f"{name}: end the processes that run {run_id} left behind there?"
                yield PossibleMend(will, partial(Node(links[name]).stop, run_id, GRACE))
            case MakeFolder(path):
                yield PossibleMend(f"{name}: make the folder {path}?", partial(_make_folder, links[name], path))
            # Other tools' lists of hosts are theirs to change; the finding's remedy stands.
            case SetKey(key, value) if not opened.inventory.foreign:
                change = (hosts_file, name, key, value)
                will = f"{hosts_file}: set hosts.{name}.{key} to {value}?"
                yield PossibleMend(will, partial(rewrite, *change), partial(edited, *change))


def _make_folder(link: Connection, folder: str) -> None:
    channel = link.command(shlex.join(["mkdir", "-p", "--", folder]))
    channel.end_input()
    _, err = channel.output()
    if channel.exit_code():
        said = err.decode("utf-8", "replace").strip()
        raise PreflightError(
            f"{folder} could not be made: {said}", remedy="make the folder by hand", host=link.host.name
        )


def edited(hosts_file: Path, name: str, key: str, value: str) -> str:
    """Return the text of a hosts file with one value of one host changed. Raises UsageError."""
    try:
        # Read as bytes: reading as text would change the line ends.
        text = hosts_file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{hosts_file} cannot be read: {error}") from None
    return set_host_value(text, name, key, value)


def rewrite(hosts_file: Path, name: str, key: str, value: str) -> None:
    """Change one value of one host in a hosts file. Raises UsageError, and then the file is unchanged."""
    text = edited(hosts_file, name, key, value)
    real = hosts_file.resolve()
    new = None
    try:
        # A new name, so that no existing file or link is written through.
        with NamedTemporaryFile("wb", prefix=f".{real.name}-", dir=real.parent, delete=False) as file:
            new = Path(file.name)
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        new.chmod(stat.S_IMODE(real.stat().st_mode))
        new.replace(real)
    except OSError as error:
        if new is not None:
            new.unlink(missing_ok=True)
        raise UsageError(f"{hosts_file} cannot be changed: {error.strerror}") from None
