"""Lists of hosts that other tools keep on this machine, and lists without a file."""

from __future__ import annotations

import codecs
import glob
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.inventory.foreign.accelerate import hostfile_of, is_accelerate
from orchestrator.core.inventory.foreign.formats import LISTS, OWN, PARSERS, detect, is_list, named_format
from orchestrator.core.inventory.foreign.gathering import WITHOUT_FILE, words
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.foreign.openssh import aliases_only, included
from orchestrator.errors import UsageError

MOST_BYTES = 4 << 20
# Most files that one configuration consists of.
MOST_FILES = 256
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CONFIGURATIONS = (".yaml", ".yml", ".json")
NAME_HOSTS = "name the hosts: --hosts node1,node2"
NO_HOSTS_FILE = (
    f"write one with orch init, {NAME_HOSTS} (a single name ends with a comma), "
    "or try orch on this machine: --hosts sandbox"
)


@dataclass(frozen=True)
class HostList:
    """The text behind ``--hosts``, or several texts by file name, the main one first. ``kind``: its format.

    ``own``: it is the OpenSSH configuration that applies to every connection anyway.
    """

    kind: str
    texts: Mapping[str, str]
    own: bool = False

    def imported(self) -> Imported:
        """Return the hosts in another tool's list. Raises InventoryError."""
        imported = PARSERS[self.kind](self.texts)
        return aliases_only(imported) if self.own else imported


def read_foreign(where: str | Path) -> Imported:
    """Return the hosts of another tool's file or folder, ``FORMAT:FILE``, or a list such as ``node1,node2``.

    Raises UsageError if it cannot be read or is an inventory already, InventoryError if it is invalid.
    """
    found = find_hosts(where)
    if found.kind == OWN:
        raise UsageError(f"{where} is an inventory of orch already", remedy=f"use it as it is: --hosts {where}")
    return found.imported()


def find_hosts(where: str | Path) -> HostList:
    """Return the text behind ``--hosts``, and its format. Raises UsageError, and InventoryError if it has none."""
    kind, rest = named_format(str(where))
    path = _expanded(Path(rest))
    if (kind in LISTS and not (rest and _exists(path))) or (kind is None and not _exists(path) and is_list(rest)):
        text = "\n".join(words(rest))
        return HostList(kind or detect(WITHOUT_FILE, text), {WITHOUT_FILE: text})
    if _is_folder(path):
        return _folder(path, kind)
    text = read_text(path)
    kind = kind or detect(path.name, text)
    if kind == "ssh":
        own = _is_own(path)
        base = _expanded(Path("~/.ssh")) if own else path.parent
        return HostList(kind, {path.name: text, **_included(base, text)}, own)
    beside = _hostfile_of(path, text) if kind == "accelerate" else {}
    return HostList(kind, {path.name: text, **beside})


def read_text(path: Path) -> str:
    """Return the text of a hosts file, with or without a byte order mark. Raises UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not a file name"
        remedy = NO_HOSTS_FILE
        other = "pass --hosts FILE, or set ORCH_HOSTS"
        raise UsageError(
            f"cannot read the hosts file {path}: {reason}", remedy=remedy if missing else other
        ) from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"the hosts file {path} is larger than {MOST_BYTES >> 20} MiB: expected a list of hosts")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 text (byte {error.start})"
        raise UsageError(f"cannot read the hosts file {path}: {reason}", remedy="pass a text file") from None
    if "\0" in text:
        raise UsageError(f"cannot read the hosts file {path}: it is a binary file", remedy="pass a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _folder(path: Path, kind: str | None) -> HostList:
    """Return the configuration that Accelerate keeps in a folder, with a file for each machine."""
    files = sorted(each for each in path.glob("*") if each.suffix in _CONFIGURATIONS and each.is_file())
    read = {each: read_text(each) for each in files[:MOST_FILES]}
    found = {each: text for each, text in read.items() if is_accelerate(text)}
    if kind not in (None, "accelerate") or not found:
        raise UsageError(
            f"the hosts file {path} is a folder, without a configuration of Accelerate in it",
            remedy=f"name a file in it, or {NAME_HOSTS}",
        )
    texts = {each.name: text for each, text in found.items()}
    for each, text in found.items():
        texts |= _hostfile_of(each, text)
    return HostList("accelerate", texts)


def _hostfile_of(path: Path, text: str) -> dict[str, str]:
    """Return the hostfile that a configuration of Accelerate names, relative to its folder or the current one."""
    named = hostfile_of(text)
    if named is None:
        return {}
    wanted = _expanded(Path(named))
    found = next((each for each in (path.parent / wanted, wanted) if _exists(each)), None)
    if found is None:
        raise UsageError(
            f"{path.name}: deepspeed_hostfile {named}: no such file beside it or in the current folder",
            remedy="pass the hostfile itself: --hosts mpi:FILE",
        )
    return {found.name: read_text(found)}


def _included(base: Path, text: str) -> dict[str, str]:
    """Return the files that an OpenSSH configuration includes, and those that they include."""
    found: dict[str, str] = {}
    waiting = [text]
    while waiting and len(found) < MOST_FILES:
        for pattern in included(waiting.pop()):
            for name in sorted(glob.glob(str(base / _expanded(Path(pattern))))):  # noqa: PTH207
                if name not in found and Path(name).is_file():
                    found[name] = read_text(Path(name))
                    waiting.append(found[name])
    # Many files of a configuration are called ``config``, so their folder is shown, too.
    return {str(Path(*Path(name).parts[-2:])): each for name, each in found.items()}


def _is_own(path: Path) -> bool:
    """Return whether orch applies an OpenSSH configuration by itself when it connects."""
    try:
        return path.resolve() in (_expanded(Path("~/.ssh/config")).resolve(), Path("/etc/ssh/ssh_config"))
    except (OSError, RuntimeError, ValueError):
        return False


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        # No home folder is known for this user.
        return path


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False
