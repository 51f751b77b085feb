"""Lists of hosts that other tools keep on this machine, and lists without a file."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.inventory.foreign.formats import LISTS, OWN, PARSERS, detect, is_list, named_format
from orchestrator.core.inventory.foreign.gathering import WITHOUT_FILE, words
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.errors import UsageError

MOST_BYTES = 4 << 20
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True)
class HostList:
    """The text behind ``--hosts``, or several texts by file name, the main one first. ``kind``: its format."""

    kind: str
    texts: Mapping[str, str]


def read_foreign(where: str | Path) -> Imported:
    """Return the hosts of another tool's file or folder, ``FORMAT:FILE``, or a list such as ``node1,node2``.

    Raises UsageError if it cannot be read or is an inventory already, InventoryError if it is invalid.
    """
    found = find_hosts(where)
    if found.kind == OWN:
        raise UsageError(f"{where} is not another tool's file", remedy=f"pass it as it is: --hosts {where}")
    return PARSERS[found.kind](found.texts)


def find_hosts(where: str | Path) -> HostList:
    """Return the text behind ``--hosts``, and its format. Raises UsageError, and InventoryError if it has none."""
    kind, rest = named_format(str(where))
    path = Path(rest).expanduser()
    if not _exists(path) and (kind in LISTS or (kind is None and is_list(rest))):
        text = "\n".join(words(rest))
        return HostList(kind or detect(WITHOUT_FILE, text), {WITHOUT_FILE: text})
    if _is_folder(path):
        raise UsageError(
            f"the hosts file {path} is a folder",
            remedy="name a file in it, or name the hosts: --hosts node1,node2",
        )
    text = read_text(path)
    return HostList(kind or detect(path.name, text), {path.name: text})


def read_text(path: Path) -> str:
    """Return the text of a hosts file, with or without a byte order mark. Raises UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not a file name"
        remedy = "write one with orch init, or name the hosts: --hosts node1,node2 (one host: --hosts node1,)"
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
    return text


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
