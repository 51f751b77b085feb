"""The verb ``relay``: receive data and pass it on to the next node while it arrives.

A conversation. Request: ``{"workdir", "root": folder on this node, "look": bool}``, then the entries as a data
frame of deflated JSON, as ``store.py`` has them. When what is here already has been looked through, the answer:
``{"place", "addresses": [[interface, address, prefix length], ...] of this node, SSH's first, "lacking": [[index
of an entry, bytes of it that are here], ...]}``; with ``look`` that is all, and nothing was written. Then
``{"listen": [addresses]}``, answer ``{"port"}``: this node listens there and nowhere else. Then an order
``{"token": of whom to let in, "next": {"addresses", "port", "token"} or null, "files": [[index, first byte],
...]}``; answer ``{"next": "ok", null, or why not}``. The data are those files from those bytes on, one after the
other; they come from the node that knows the token, or as data frames on stdin. Meanwhile comes ``{"at": bytes}``
now and then, at the end ``{"done": true, "complete": bool, "damaged": [paths], "next": ...}``.

A file is complete or not there; its part is ``.orch-<code>-<host>.part`` beside it and stays for the next attempt.
The code is one that nobody else can work out, for others may be allowed to write there.
"""

import contextlib
import errno
import hashlib
import hmac
import json
import os
import select
import socket
import stat
import threading
import time
import zlib

from . import blobs, facts, paths, place, probe, processes, store, tidy, wire
from .refusal import Refused

LINK_LIMIT, STALL_LIMIT = 3.0, 30.0
TELL_EVERY = 0.5
PIECE = 256 * 1024


def answer(request, out):
    """Look, receive, pass on."""
    os.umask(processes.login_umask)
    root = os.path.realpath(os.path.expanduser(request["root"]))
    entries = json.loads(zlib.decompress(wire.read_frame(0)[1]).decode("ascii"))
    for entry in entries:
        store.check_path(entry[0])
    records = Records(request["workdir"], root)
    here = {index: Part(root, entry, records) for index, entry in enumerate(entries) if entry[1] == "file"}
    if request["look"]:
        lacking = [[index, 0] for index, part in here.items() if not part.whole()]
        first = {"place": None, "addresses": [], "lacking": lacking}
        wire.write_all(out, wire.json_frame(first))
        return
    tidy.remove_abandoned(request["workdir"])
    lacking = {index: part for index, part in here.items() if not part.there()}
    for entry in entries:
        if entry[1] != "file":
            make(root, entry)
    first = {
        "place": place.of(request["workdir"]) if inside(root, request["workdir"]) else None,
        "addresses": addresses(),
        "lacking": [[index, part.have] for index, part in lacking.items()],
    }
    wire.write_all(out, wire.json_frame(first))
    try:
        pass_on(entries, lacking, out)
    finally:
        records.save()


def addresses():
    """This node's addresses, the one that SSH came in on first."""
    ssh = (facts.ssh_address() or "127.0.0.1").replace("::ffff:", "")
    known = facts.addresses()
    first = [entry for entry in known if entry[1] == ssh] or [["", ssh, 128 if ":" in ssh else 32]]
    return first[:1] + [entry for entry in known if entry[1] != ssh]


def inside(root, workdir):
    """Whether a folder is below the workdir: only then a workdir that hosts share tells that they share it."""
    return root.startswith(os.path.join(os.path.realpath(os.path.expanduser(workdir)), ""))


def pass_on(entries, lacking, out):
    """Obey an order: take the files in from where it says, and send them on."""
    frame = wire.read_frame(0)
    if frame is None:
        return
    listeners = probe.opened(probe.own(json.loads(frame[1].decode("ascii"))["listen"]), socket.SOCK_STREAM, 0)
    wire.write_all(out, wire.json_frame({"port": listeners[0].getsockname()[1]}))
    frame = wire.read_frame(0)
    if frame is None:
        return
    order = json.loads(frame[1].decode("ascii"))
    admitted = Admission(listeners, order["token"])
    follower = Follower(order["next"]) if order["next"] else None
    wire.write_all(out, wire.json_frame({"next": follower.state if follower else None}))
    ready, _, _ = select.select([0, admitted.woken], [], [], STALL_LIMIT)
    if not ready:
        raise Refused("no data came", "broken")
    source = admitted.stream if admitted.stream is not None else Frames()
    complete, damaged, at, told = True, [], 0, 0.0
    for index, begin in order["files"]:
        part = lacking.get(index)
        left, position = entries[index][3] - begin, begin
        while left:
            piece = source.read(min(left, PIECE))
            if not piece:
                complete = False
                break
            if follower is not None:
                follower.send(piece)
            if part is not None:
                part.write(position, piece)
            left -= len(piece)
            position += len(piece)
            at += len(piece)
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                wire.write_all(out, wire.json_frame({"at": at}))
        if not complete:
            break
        if part is not None and not part.finish():
            damaged.append(entries[index][0])
    for part in lacking.values():
        part.close()
    state = follower.state if follower else None
    if follower is not None:
        follower.close()
    wire.write_all(out, wire.json_frame({"done": True, "complete": complete, "damaged": damaged, "next": state}))


class Part:
    """One file on its way: ``have`` bytes of it are here."""

    def __init__(self, root, entry, records):
        self.path, _, self.mode, self.size, self.sha = entry
        self.target = os.path.join(root, self.path)
        folder = os.path.dirname(self.target)
        if os.path.realpath(folder) != root and not os.path.realpath(folder).startswith(root.rstrip("/") + "/"):
            raise Refused("%r leads out of %s there" % (self.path, root), "path")
        # With the host's name: others may have the same folder, and write to it at the same time.
        self.partial = os.path.join(folder, ".orch-%s-%s.part" % (code(self.target, self.sha), paths.hostname()))
        self.records = records
        self.have = 0
        self.digest = hashlib.sha256()
        self.file = None

    def whole(self):
        """Whether the file is here as it should be."""
        try:
            status = os.lstat(self.target)
        except OSError:
            status = None
        if status is not None and os.path.isfile(self.target) and status.st_size == self.size:
            known = self.records.sha(self.path, status)
            if known is None:
                known = file_hash(self.target, hashlib.sha256()).hexdigest()
            if known == self.sha:
                self.records.note(self.path, status, known)
                return True
        return False

    def there(self):
        """Whether the file is here, whole; if not, look at what there is of it."""
        if self.whole():
            return True
        if os.path.lexists(self.partial):
            self.open()
            self.have = min(os.fstat(self.file).st_size, self.size)
            digest_of(self.file, self.digest, self.have)
            self.close()
        return self.finish() if self.have == self.size else False

    def open(self):
        """Begin or go on with the part; raises Refused if what stands there is not a file of this user's alone."""
        if self.file is not None:
            return
        os.makedirs(os.path.dirname(self.partial), exist_ok=True)
        try:
            self.file = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise Refused("%r: somebody put a link where its part belongs" % self.path, "path") from None
        status = os.fstat(self.file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or not paths.is_ours(status, self.partial):
            self.close()
            raise Refused("%r: somebody put a file of theirs where its part belongs" % self.path, "path")

    def write(self, position, piece):
        """Take a piece that begins at byte ``position``; what is here already is passed over."""
        piece = piece[max(0, self.have - position) :]
        if not piece:
            return
        self.open()
        end = self.have + len(piece)
        while self.have < end:
            self.have += os.pwrite(self.file, piece[len(piece) - (end - self.have) :], self.have)
        # Of what stands in the file, not of what was sent.
        self.digest.update(os.pread(self.file, len(piece), end - len(piece)))

    def finish(self):
        """Put the file in place; False, and nothing of it stays, if it is not what it should be."""
        self.open()
        size = os.fstat(self.file).st_size
        if self.have != self.size or size != self.size or self.digest.hexdigest() != self.sha:
            self.close()
            os.unlink(self.partial)
            self.have, self.digest = 0, hashlib.sha256()
            return False
        os.fchmod(self.file, self.mode)
        self.close()
        os.rename(self.partial, self.target)
        self.records.note(self.path, os.lstat(self.target), self.sha)
        return True

    def close(self):
        """Leave the part as it is."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def code(target, sha):
    """What a part is called by: always the same for a file, and known to this user alone."""
    return hmac.new(paths.secret(), os.fsencode(target) + b"\0" + sha.encode("ascii"), "sha256").hexdigest()[:24]


class Records:
    """The hashes of files that were verified here, valid while size and times are the same."""

    def __init__(self, workdir, root):
        folder = os.path.join(paths.own_dir(workdir), "data")
        self.path = os.path.join(folder, hashlib.sha256(os.fsencode(root)).hexdigest()[:24] + ".json")
        try:
            with open(self.path) as file:
                self.known = json.load(file)
        except (OSError, ValueError):
            self.known = {}

    def sha(self, path, status):
        """The hash of a file with this status, or None."""
        known = self.known.get(path)
        return known[2] if known and known[:2] == [status.st_size, status.st_mtime_ns] else None

    def note(self, path, status, sha):
        """Remember a hash."""
        self.known[path] = [status.st_size, status.st_mtime_ns, sha]

    def save(self):
        """Keep them."""
        # Without them files are read again, no more.
        with contextlib.suppress(OSError):
            paths.private(os.path.dirname(os.path.dirname(self.path)))
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with blobs.written(self.path) as file:
                json.dump(self.known, file)


class Frames:
    """The data frames of stdin."""

    def __init__(self):
        self.buffer = memoryview(b"")

    def read(self, size):
        """Up to ``size`` bytes; none at the end."""
        if not self.buffer:
            try:
                frame = wire.read_frame(0)
            except wire.WireError:
                return b""
            if frame is None:
                return b""
            self.buffer = memoryview(frame[1])
        piece, self.buffer = self.buffer[:size], self.buffer[size:]
        return piece


class Stream:
    """What the node before sends."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(STALL_LIMIT)

    def read(self, size):
        """Up to ``size`` bytes; none at the end, or if nothing comes for too long."""
        try:
            return self.sock.recv(size)
        except OSError:
            return b""


class Admission:
    """Lets the node before in, in the background, once it has shown its token; nobody else, and only one.

    ``woken`` is readable from then on, ``stream`` what it sends.
    """

    def __init__(self, listeners, token):
        self.stream = None
        self.woken, self.wake = os.pipe()
        self.listeners = listeners
        threading.Thread(target=self.wait, args=(token.encode("ascii"),), daemon=True).start()

    def wait(self, token):
        """Until it is there."""
        while self.stream is None:
            ready, _, _ = select.select(self.listeners, [], [])
            sock, _ = ready[0].accept()
            sock.settimeout(LINK_LIMIT)
            try:
                said = b""
                while len(said) < len(token):
                    piece = sock.recv(len(token) - len(said))
                    if not piece:
                        break
                    said += piece
                if hmac.compare_digest(said, token):
                    sock.sendall(b"k")
                    self.stream = Stream(sock)
                    os.write(self.wake, b"k")
                    return
            except OSError:
                pass
            sock.close()


class Follower:
    """The node after this one. ``state`` is ``ok``, or why nothing more is sent to it."""

    def __init__(self, door):
        self.sock = None
        self.state = "it has no address"
        for address in door["addresses"]:
            try:
                self.sock = socket.create_connection((address, door["port"]), LINK_LIMIT)
                self.sock.sendall(door["token"].encode("ascii"))
                if self.sock.recv(1) != b"k":
                    raise OSError("another machine answers at %s" % address)
                self.sock.settimeout(STALL_LIMIT)
                self.state = "ok"
                return
            except OSError as error:
                self.state = "%s: %s" % (address, error)
                self.close()

    def send(self, piece):
        """Pass a piece on; once that fails the follower is given up."""
        if self.sock is not None:
            try:
                self.sock.sendall(piece)
            except OSError as error:
                self.state = str(error)
                self.close()

    def close(self):
        """No more."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def make(root, entry):
    """A folder or a link of the data."""
    path, kind, _mode, _size, about = entry
    there = os.path.join(root, path)
    folder = there if kind == "dir" else os.path.dirname(there)
    os.makedirs(folder, exist_ok=True)
    if kind == "link" and not (os.path.islink(there) and os.readlink(there) == about):
        aside = os.path.join(folder, blobs.partial_name())
        os.symlink(about, aside)
        os.replace(aside, there)


def file_hash(path, digest):
    """``digest`` with a file's bytes added."""
    with open(path, "rb") as file:
        while True:
            piece = file.read(1024 * 1024)
            if not piece:
                return digest
            digest.update(piece)


def digest_of(handle, digest, size):
    """Add the first ``size`` bytes of an open file to ``digest``."""
    at = 0
    while at < size:
        piece = os.pread(handle, min(1024 * 1024, size - at), at)
        if not piece:
            return
        digest.update(piece)
        at += len(piece)
