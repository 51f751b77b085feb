"""The control machine's side of the node program: ship it, call it, read its frames."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import secrets
import shlex
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from orchestrator import errors, protocol
from orchestrator.protocol import frames
from orchestrator.protocol.refusal import Refusal
from orchestrator.protocol.run import Stop, Stopped
from orchestrator.protocol.shapes import MOST_BYTES, MOST_VALUES, Misshapen, decoded
from orchestrator.protocol.slurm import Place
from orchestrator.remote.login import command_line
from orchestrator.remote.ssh.channel import Channel
from orchestrator.remote.ssh.connection import Connection

if TYPE_CHECKING:
    from orchestrator.protocol.frames import Frame
    from orchestrator.protocol.shapes import Shape

T = TypeVar("T")


class Request(Protocol):
    """A message that names its verb."""

    VERB: ClassVar[str]

    def to_wire(self) -> dict[str, object]:
        """Return the JSON object."""


PACKAGE = "orch_node"
# A stop may take its grace and this many seconds more before the connection counts as lost.
STOP_MARGIN = 20.0
MAIN = f"import sys\nfrom {PACKAGE}.node.__main__ import main\nsys.exit(main())\n"
# Receives the program, verifies it, compiles it (otherwise every start would), and renames it into place. Removes
# programs that were last sent more than 30 days ago.
INSTALL = """
import hashlib, io, os, py_compile, sys, tempfile, time, zipfile
name, wanted = sys.argv[1:3]
data = sys.stdin.buffer.read()
if hashlib.sha256(data).hexdigest() != wanted:
    sys.exit("the node program arrived damaged")
folder = os.path.join(os.path.expanduser("~"), ".orch", "lib")
os.makedirs(folder, mode=0o700, exist_ok=True)
handle, temporary = tempfile.mkstemp(dir=folder)
try:
    sent = zipfile.ZipFile(io.BytesIO(data))
    with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as kept:
        with tempfile.TemporaryDirectory() as made:
            for entry in sent.namelist():
                source, compiled = os.path.join(made, "source"), os.path.join(made, "compiled")
                with open(source, "wb") as text:
                    text.write(sent.read(entry))
                mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
                py_compile.compile(source, compiled, entry, True, invalidation_mode=mode)
                kept.write(source, entry)
                kept.write(compiled, entry + "c")
    os.replace(temporary, os.path.join(folder, name))
finally:
    if os.path.exists(temporary):
        os.unlink(temporary)
for old in os.listdir(folder):
    path = os.path.join(folder, old)
    if old != name and time.time() - os.stat(path).st_mtime > 30 * 86400:
        os.unlink(path)
"""
# Exit code of IDLE: no run's socket exists, no process that we may read has a run's mark, and no run may have a
# container.
IDLE_CODE = 86
# Longest wait for the node program's first bytes, in seconds.
START_TIMEOUT = 15.0
# Longest silence while the node program is installed, in seconds.
INSTALL_LIMIT = 60.0
# Not every login shell passes on a pattern that matches nothing, as sh does.
IDLE_COMMAND = command_line(
    (
        "sh",
        "-c",
        "grep -qs @orch-host-lock: /proc/net/unix || grep -qs ORCH_RUN_ID= /proc/[0-9]*/environ"
        f' || grep -qs . "$HOME"/.orch/*/runs/*/attempt*/container.json || exit {IDLE_CODE}',
    )
)
PRESENT_CODE = 87
# The usual name of each system that uname reports.
OTHER_SYSTEMS: Mapping[str, str] = {
    "Darwin": "macOS",
    "FreeBSD": "FreeBSD",
    "OpenBSD": "OpenBSD",
    "NetBSD": "NetBSD",
    "MINGW": "Windows",
    "CYGWIN": "Windows",
    "MSYS": "Windows",
}
REFUSALS: Mapping[str, type[errors.OrchError]] = {
    "busy": errors.NodeBusy,
    "damaged": errors.SyncError,
    "broken": errors.SyncError,
    "path": errors.SyncError,
    "tree": errors.SyncError,
    "slurm": errors.PreflightError,
}


@functools.cache
def program() -> tuple[str, bytes]:
    """Return the node program's file name, which holds the hash of its contents, and its zipapp."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        folder = Path(protocol.__file__).parent.parent
        files = sorted([*(folder / "node").rglob("*.py"), *(folder / "protocol").rglob("*.py")])
        texts = {f"{PACKAGE}/{path.relative_to(folder)}": path.read_text() for path in files}
        for name, text in [("__main__.py", MAIN), (f"{PACKAGE}/__init__.py", ""), *texts.items()]:
            # With a fixed date, equal sources give equal bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)
    data = buffer.getvalue()
    return f"node-{hashlib.sha256(data).hexdigest()[:16]}.pyz", data


def call_command(verb: str) -> str:
    """Return the command line of a call.

    ``-I`` keeps the user's PYTHON* variables out of the node program, ``-S`` saves a third of its start time.
    """
    return f'exec python3 -I -S "$HOME/.orch/lib/{program()[0]}" {verb}'


def install_command() -> str:
    """Return the command line that receives the program on its stdin."""
    name, data = program()
    # Base64 has no character that a login shell interprets, and no newline, where csh would end a quoted word.
    code = base64.b64encode(INSTALL.encode()).decode()
    start = f"import base64; exec(base64.b64decode('{code}'))"
    return f'python3 -I -c "{start}" {name} {hashlib.sha256(data).hexdigest()}'


def has_tree_command(workdir: str, project: str, tree_id: str) -> str:
    """Return a command line that tests for a user's tree and touches its list, as ``node/store/trees.py`` does."""
    tree, parent = in_home(f"{workdir}/{project}/{tree_id}"), in_home(f"{workdir}/{project}")
    return f"test -O {parent} && test -d {tree} && test -O {tree} && touch -c {tree}.json && exit {PRESENT_CODE}"


def in_home(path: str) -> str:
    """Quote a path for the node's shell, which expands only a leading ``~``."""
    if path == "~" or path.startswith("~/"):
        return '"$HOME"' + (shlex.quote(path[1:]) if path != "~" else "")
    return shlex.quote(path)


class Call:
    """A call of one verb on a node. ``sent_at``: the time of the request, in seconds since the epoch."""

    def __init__(self, channel: Channel, nonce: str) -> None:
        self.channel = channel
        self.host = channel.host
        self.nonce = nonce
        self.sent_at = time.time()
        self._splitter = frames.Splitter(nonce)
        self._frames: list[Frame] = []

    @property
    def noise(self) -> bytes:
        """Output of the login shell before the node program's preamble."""
        return bytes(self._splitter.noise)

    def frames(self, silence: float, deadline: float | None = None) -> Iterator[Frame]:
        """Yield frames until the node program ends. Raises ConnectionLost, or the error of the node's refusal.

        ``silence``: seconds without a byte after which the connection counts as lost. ``deadline``: the monotonic
        time by which the last frame must arrive.
        """
        began = time.monotonic()
        while True:
            while self._frames:
                kind, payload = self._frames.pop(0)
                if kind == frames.JSON and b'"error"' in payload and b'"kind"' in payload:
                    self._raise_refusal(payload)
                yield kind, payload
            left = silence if deadline is None else min(silence, deadline - time.monotonic())
            if left <= 0:
                limit = (deadline or 0.0) - began
                raise errors.ConnectionSilent(f"no whole answer within {limit:.3g} s", host=self.host)
            piece = self.channel.read(left)
            if not piece:
                return
            self._take(piece)

    def answer(self, shape: Shape[T], limit: float, scale: int = 1) -> T:
        """Return the next frame, JSON of ``shape``, within ``limit`` seconds. Raises as ``frames`` does.

        Raises NodeProgramError for any other frame. ``scale``: its size limit, as a multiple of the usual one.
        """
        return self.shaped(self._next(frames.JSON, limit), shape, scale)

    def data(self, limit: float) -> bytes:
        """Return the next frame, which must be raw bytes, within ``limit`` seconds."""
        return self._next(frames.DATA, limit)

    def _next(self, wanted: bytes, limit: float) -> bytes:
        for kind, payload in self.frames(limit, time.monotonic() + limit):
            if kind == wanted:
                return payload
            raise self.protocol_error("a frame of the wrong kind")
        raise self.ended()

    def shaped(self, payload: bytes, shape: Shape[T], scale: int = 1) -> T:
        """Parse a message of ``shape``. Raises NodeProgramError for any other."""
        try:
            return shape(decoded(payload, scale * MOST_BYTES, scale * MOST_VALUES), "answer")
        except Misshapen as error:
            raise self.protocol_error(str(error)) from None

    def protocol_error(self, what: str) -> errors.NodeProgramError:
        """Return the error for a node that breaks the protocol."""
        remedy = "check whether something replaced the node program in ~/.orch/lib there"
        return errors.NodeProgramError(f"broke the protocol: {what}", remedy=remedy, host=self.host)

    def wait_for_preamble(self) -> bool:
        """Wait for the preamble. Return False if the program ends first: it is not installed, or cannot start.

        Raises NodeProgramError after START_TIMEOUT seconds of silence.
        """
        while not self._splitter.started:
            try:
                piece = self.channel.read(START_TIMEOUT)
            except errors.ConnectionSilent:
                raise errors.NodeProgramError(
                    f"python3 there printed nothing for {START_TIMEOUT:g} s",
                    remedy="run python3 there by hand",
                    host=self.host,
                ) from None
            if not piece:
                return False
            self._take(piece)
        return True

    def _take(self, piece: bytes) -> None:
        try:
            self._frames += self._splitter.feed(piece)
        except frames.WireError as error:
            raise self.protocol_error(str(error)) from None

    def ended(self) -> errors.NodeProgramError:
        """Return the error for a program that ended early: its exit code and the last line of stderr."""
        code = self.channel.exit_code()
        said = self.channel.read_errors().decode("utf-8", "replace").strip().splitlines()
        return _cannot_start(self.host, code, said)

    def _raise_refusal(self, payload: bytes) -> None:
        try:
            refusal = Refusal.from_wire(decoded(payload))
        except Misshapen:
            return
        kind = REFUSALS.get(refusal.kind, errors.NodeProgramError)
        raise kind(refusal.error, host=self.host)


class Node:
    """A node with a connection, over which verbs are called.

    ``place``: of a node of a batch job, whose state the connection's host shares; then ``name`` is the node's.
    """

    def __init__(self, connection: Connection, name: str | None = None, place: Place | None = None) -> None:
        self.connection = connection
        self.name = name or connection.host.name
        self.place = place

    def call(self, request: Request) -> Call:
        """Start a verb, shipping the node program first if the node does not have it yet."""
        call = self._try(request)
        if not call.wait_for_preamble():
            self._install()
            call = self._try(request)
            if not call.wait_for_preamble():
                raise self._unfit_error() or call.ended()
        return call

    def _unfit_error(self) -> errors.NodeProgramError | None:
        """Return why the node can run no node program (not Linux, no shell, a forced command); None if it can."""
        channel = self._start_command("uname -s; exit 86", b"", more=False)
        out, err = channel.output(START_TIMEOUT)
        said = (out + err).decode("utf-8", "replace").strip()
        code = channel.exit_code()
        if code == IDLE_CODE and said.endswith("Linux"):
            return None
        known = next((name for name in OTHER_SYSTEMS if name in said), None)
        if known is not None or "not recognized" in said:
            what = f"runs {OTHER_SYSTEMS[known] if known else 'Windows'}, and orch's nodes need Linux"
            remedy = "orch plan --offline --format sh or ps1 prints the commands to start there by hand"
        elif "not available" in said or not said:
            what = f"its login shell runs no commands ({said[:80] or 'it ends without a word'})"
            remedy = "give the user a shell there: chsh -s /bin/sh USER (it may be nologin or false now)"
        elif code != IDLE_CODE:
            what = f"its SSH server runs another command, which printed {said.splitlines()[0][:80]!r}"
            remedy = "remove ForceCommand from its sshd_config, or command= from authorized_keys"
        else:
            return None
        return errors.NodeProgramError(what, remedy=remedy, host=self.name)

    def ask(self, request: Request, shape: Shape[T], limit: float, scale: int = 1) -> T:
        """Call a verb and return its one answer. Raises ConnectionLost if none comes within ``limit`` seconds."""
        call = self.call(request)
        try:
            return call.answer(shape, limit, scale)
        finally:
            call.channel.close()

    def idle(self) -> bool:
        """Return whether the node has no run and no leftovers, at a tenth of the node program's cost."""
        return self.ends_with(IDLE_COMMAND, IDLE_CODE)

    def stop(self, run_id: str | None, grace: float) -> Stopped:
        """End a run (None: any run) and its leftovers on the node; return the outcome.

        Returns once no process of the run is left. Raises ConnectionLost if no answer comes in time.
        """
        return self.ask(Stop(run_id=run_id, grace=grace), Stopped.from_wire, grace + STOP_MARGIN)

    def has_tree(self, workdir: str, project: str, tree_id: str) -> bool:
        """Return whether the node has a tree, and mark it as synced last. Takes one round trip and no Python."""
        return self.ends_with(has_tree_command(workdir, project, tree_id), PRESENT_CODE)

    def ends_with(self, line: str, code: int) -> bool:
        """Return whether a command line ends with this exit code."""
        channel = self._start_command(line, b"", more=False)
        try:
            return channel.exit_code() == code
        finally:
            channel.close()

    def _try(self, request: Request) -> Call:
        nonce = secrets.token_hex(8)
        about: dict[str, object] = {} if self.place is None else {"place": self.place.to_wire()}
        frame = frames.json_frame({**request.to_wire(), **about, "nonce": nonce})
        return Call(self._start_command(call_command(request.VERB), frame), nonce)

    def _start_command(self, line: str, data: bytes, *, more: bool = True) -> Channel:
        """Start a command line and write to it; its exit code tells more than a failed write, which is ignored."""
        channel = self.connection.command(line)
        try:
            channel.write(data)
            if not more:
                channel.end_input()
        except errors.ConnectionLost:
            if not self.connection.alive:
                raise
        return channel

    def _install(self) -> None:
        channel = self._start_command(install_command(), program()[1], more=False)
        _, err = channel.output(INSTALL_LIMIT)
        code = channel.exit_code()
        if code:
            raise self._unfit_error() or _cannot_start(
                self.name, code, err.decode("utf-8", "replace").strip().splitlines()
            )


def _cannot_start(host: str, code: int, said: Sequence[str]) -> errors.NodeProgramError:
    last = said[-1] if said else "it printed nothing"
    if code == 127:
        return errors.NodeProgramError(
            "python3 is not on this node's PATH", remedy="install Python 3.7 or later there", host=host
        )
    return errors.NodeProgramError(
        f"the node program ended with exit code {code}: {last}",
        remedy="check that python3 there is version 3.7 or later",
        host=host,
    )
