"""Decide what an SSH file becomes, from its contents and orch's record of it. Touches nothing."""

from __future__ import annotations

import hashlib

from ...protocol.keys import AUTHORIZED_KEYS, LOGIN, Before, FileChange, FileRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    # Contents and mode; None if there is no file.
    Found = tuple[bytes, int] | None
    Wanted = Mapping[str, tuple[str, ...]]

NEW_MODE = 0o600
# sshd and ssh refuse files that others may write to.
OTHERS_WRITE = 0o022


class Edit:
    """What a file becomes. ``found`` and ``record``: None if there is no file, or nothing to record."""

    def __init__(self, found: Found, record: FileRecord | None, change: FileChange) -> None:
        self.found = found
        self.record = record
        self.change = change


def edited(name: str, found: Found, record: FileRecord | None, wanted: Wanted, drop: str | None) -> Edit:
    """Return the edit that gives the file ``name`` the entries that each purpose wants.

    ``wanted``: all entries of each named purpose. ``drop``: as in ``ArrangeKeys``.
    """
    content = b"" if found is None else found[0]
    old = {} if record is None else record.entries
    kept = {each: old[each] for each in old if each not in wanted and not each.startswith("%s " % drop)}
    ours = {entry for entries in old.values() for entry in entries if _at(content, entry) >= 0}
    needed = {entry for entries in (*kept.values(), *wanted.values()) for entry in entries}
    text, removed, absent = content, 0, 0
    for entry in dict.fromkeys(entry for entries in old.values() for entry in entries if entry not in needed):
        text, was_there = _without(text, entry)
        removed, absent = removed + was_there, absent + (not was_there)
    fits = found is None or not found[1] & OTHERS_WRITE
    added = 0
    for purpose, entries in wanted.items():
        for entry in entries:
            if entry not in ours and not _present(name, text, purpose, entry):
                text, added = _with(text, entry), added + 1
                ours.add(entry)
        mine = tuple(entry for entry in entries if entry in ours)
        if mine or (entries and (purpose in old or not fits)):
            kept[purpose] = mine
    counts = FileChange(added=added, removed=removed, absent=absent)
    if not kept:
        return _restored(found, record, text, counts)
    mode = NEW_MODE if found is None else found[1] & ~OTHERS_WRITE
    before = Before(sha256=None if found is None else digest(content), mode=None if found is None else found[1])
    new = FileRecord(before=before if record is None else record.before, mode=mode, entries=kept)
    change = counts.replace(made=found is None, mode=mode if found and found[1] != mode else None)
    return Edit((text, mode), new, change)


def _restored(found: Found, record: FileRecord | None, text: bytes, counts: FileChange) -> Edit:
    """Return the edit after which orch has no entry in the file."""
    if record is None or found is None:
        return Edit(found, None, counts)
    before, mode = record.before, found[1]
    if before.mode is None:
        if not text:
            return Edit(None, None, counts.replace(deleted=True))
        return Edit((text, mode), None, counts.replace(others=True))
    if digest(text) != before.sha256 and digest(text[:-1]) == before.sha256:
        # The last line had no newline until an entry followed it.
        text = text[:-1]
    back = before.mode if mode == record.mode else mode
    others = digest(text) != before.sha256
    return Edit((text, back), None, counts.replace(mode=back if back != mode else None, others=others))


def _with(text: bytes, entry: str) -> bytes:
    # An editor may have left the last line without a newline.
    glue = b"" if not text or text.endswith(b"\n") else b"\n"
    return text + glue + entry.encode("utf-8") + b"\n"


def _without(text: bytes, entry: str) -> tuple[bytes, bool]:
    """Return the text without the last such entry, and whether there was one."""
    at = _at(text, entry)
    if at < 0:
        return text, False
    return text[:at] + text[at + len(entry.encode("utf-8")) + 1 :], True


def _at(text: bytes, entry: str) -> int:
    """Return where the last such entry begins, as whole lines; -1 if there is none."""
    # The last line counts even if it lacks a newline.
    return (b"\n" + text + b"\n").rfind(b"\n" + entry.encode("utf-8") + b"\n")


def _present(name: str, text: bytes, purpose: str, entry: str) -> bool:
    """Return whether the file has the entry already; a login key counts with any comment, but without options."""
    if _at(text, entry) >= 0:
        return True
    if name != AUTHORIZED_KEYS or not purpose.startswith(LOGIN):
        return False
    key = entry.encode("utf-8").split()[:2]
    return any(line.split()[:2] == key for line in text.splitlines())


def digest(text: bytes) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text).hexdigest()
