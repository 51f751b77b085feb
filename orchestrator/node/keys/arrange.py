"""Answer the verb ``keys``: change the SSH files of this user atomically, and record how to undo that."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import stat
import sys

from ...protocol import frames
from ...protocol.keys import AUTHORIZED_KEYS, FILES, ArrangeKeys, Before, KeysArranged, KeysRecord
from ...protocol.refusal import Refused
from ...protocol.shapes import MOST, decoded
from ..host import atomic, bounded, flock, paths
from . import between_key
from .entries import OTHERS_WRITE, edited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .entries import Edit, Found

# Time limit for restoring the folder's SELinux label, in seconds.
LABEL_LIMIT = 10.0


def answer(asked: ArrangeKeys, out: int) -> None:
    """Carry out an ``ArrangeKeys``, or only tell what would change."""
    home = home_folder()
    with _alone(home) if asked.write else contextlib.nullcontext():
        frames.send(out, arranged(asked, home))


def home_folder() -> str:
    """Return this user's home folder as sshd knows it, which ``$HOME`` need not be."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return os.path.expanduser("~")


@contextlib.contextmanager
def _alone(home: str) -> Iterator[None]:
    path = os.path.join(home, ".orch", "keys.lock")
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with flock.held(path, fcntl.LOCK_EX):
        try:
            yield
        finally:
            os.unlink(path)


def arranged(asked: ArrangeKeys, home: str) -> KeysArranged:
    """Return what changed in the files below ``home``, or what would."""
    folder, noted = os.path.join(home, ".ssh"), os.path.join(home, ".orch", "keys.json")
    record = _record(noted)
    found = {name: read(os.path.join(folder, name)) for name in FILES}
    edits = {
        name: edited(
            name,
            found[name],
            record.files.get(name),
            {purpose: files.get(name, ()) for purpose, files in asked.entries.items()},
            asked.drop,
        )
        for name in FILES
    }
    public = between_key.public(folder)
    make = asked.key == "make" and public is None
    remove = asked.key == "remove" and record.key and public is not None
    files = {name: edit.record for name, edit in edits.items() if edit.record is not None}
    key = (record.key or make) and asked.key != "remove"
    new = KeysRecord(files=files, key=key, folder=_folder(folder) if record.folder is None else record.folder)
    empty = not files and not key
    if asked.write:
        if not empty:
            _open_folder(folder)
            _keep(noted, record, new)
        if make:
            public = between_key.make(folder)
        if remove:
            between_key.remove(folder)
            public = None
        for name, edit in edits.items():
            _write(os.path.join(folder, name), found[name], edit)
        if empty:
            _restore(folder, noted, record)
    return KeysArranged(
        home=_home_id(home),
        public=public,
        key_made=make,
        key_removed=remove,
        files={name: edit.change for name, edit in edits.items() if edit.change != type(edit.change)()},
        doubts=tuple(_doubts(home)) if AUTHORIZED_KEYS in files else (),
    )


def read(path: str) -> Found:
    """Return contents and mode of a file, None if there is none. Raises Refused for what orch must not change."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise Refused("%s is not a file" % path, "keys")
    if not paths.is_ours(status, path):
        raise Refused("%s belongs to another user (uid %d)" % (path, status.st_uid), "keys")
    with open(path, "rb") as file:
        return file.read(), stat.S_IMODE(status.st_mode)


def _write(path: str, found: Found, edit: Edit) -> None:
    """Put the new version of a file in place of the old one, of a link's target if it is a link."""
    real = os.path.realpath(path)
    if edit.found == found:
        return
    if edit.found is None:
        os.unlink(real)
        return
    content, mode = edit.found
    if found is not None and found[0] == content:
        os.chmod(real, mode)
        return
    with atomic.written_bytes(real) as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        if found is not None:
            with contextlib.suppress(OSError):
                os.fchown(file.fileno(), -1, os.stat(real).st_gid)
        file.flush()
        os.fsync(file.fileno())


def _folder(folder: str) -> Before | None:
    """Return what to record of ``~/.ssh``; None if it is as it should be."""
    try:
        mode = stat.S_IMODE(os.stat(folder).st_mode)
    except FileNotFoundError:
        return Before(mode=None)
    return Before(mode=mode) if mode & OTHERS_WRITE else None


def _open_folder(folder: str) -> None:
    """Make ``~/.ssh`` if needed, and take away others' right to write to it, with which sshd ignores it."""
    if not os.path.isdir(folder):
        os.makedirs(folder, mode=0o700)
        if os.path.exists("/sys/fs/selinux/enforce"):
            with contextlib.suppress(bounded.NoAnswer):
                bounded.run(["restorecon", "-R", folder], LABEL_LIMIT)
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    if mode & OTHERS_WRITE:
        os.chmod(folder, mode & ~OTHERS_WRITE)


def _restore(folder: str, noted: str, record: KeysRecord) -> None:
    """Undo what ``_open_folder`` did, and forget."""
    before = record.folder
    if before is not None and before.mode is None:
        with contextlib.suppress(OSError):  # others' files are in it
            os.rmdir(folder)
    elif before is not None and before.mode is not None:
        os.chmod(folder, before.mode)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(noted)


def _record(path: str) -> KeysRecord:
    try:
        with open(path, "rb") as file:
            return KeysRecord.from_wire(decoded(file.read(), MOST, MOST))
    except FileNotFoundError:
        return KeysRecord()
    except ValueError as error:
        raise Refused(
            "%s is damaged (%s): remove it to start again, without undo" % (path, error), "keys"
        ) from None


def _keep(path: str, old: KeysRecord, new: KeysRecord) -> None:
    if new != old:
        with atomic.written_bytes(path) as file:
            file.write(json.dumps(new.to_wire(), indent=1).encode("ascii") + b"\n")


def _home_id(home: str) -> str:
    """Return a word that is equal on nodes that share a home: it names this program's file, which lies there."""
    status = os.stat(sys.argv[0] if os.path.exists(sys.argv[0]) else home)
    return "%s %x %x" % (home, status.st_ino, status.st_mtime_ns)


def _doubts(home: str) -> Iterator[str]:
    mode = stat.S_IMODE(os.stat(home).st_mode)
    if mode & OTHERS_WRITE:
        yield "others may write to %s (mode %03o), so sshd ignores keys in it: chmod go-w %s" % (home, mode, home)
