"""The verb ``environment``: build a virtual environment, once for its packages, interpreter and platform.

A build that failed leaves nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading

from ...protocol import frames
from ...protocol.refusal import Refused
from ...protocol.transfer import Base, BuildFailed, Ready, Said, Wheels
from ..host import atomic, bounded, flock, paths, processes, shared_disk
from ..probe import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.transfer import BuildEnvironment

READY = ".orch-ready"
LAST_WORDS = 12
ABOUT = "import json, sys; print('\\n' + json.dumps(['%d.%d.%d' % sys.version_info[:3], sys.executable]))"
# What pip and uv say when they reach no index.
OFFLINE = (
    "Network is unreachable",
    "Temporary failure in name resolution",
    "Name or service not known",
    "NewConnectionError",
    "ConnectTimeoutError",
    "Connection refused",
    "No route to host",
    "dns error",
    "error sending request",
    "Failed to fetch",
)


def answer(request: BuildEnvironment, out: int) -> None:
    """Say whether it is here, else build it."""
    base = os.path.join(paths.own_dir(request.workdir), "envs")
    python = shutil.which(os.path.expanduser(request.python or "python3"))
    if python is None:
        raise Refused("no such program: %s" % request.python, "tree")
    version = version_of(python)
    about = {"version": version, "machine": os.uname().machine, "libc": machine.libc()}
    kind = json.dumps([request.requirements, python] + sorted(about.items()))
    folder = os.path.join(base, hashlib.sha256(kind.encode("ascii")).hexdigest()[:32])
    if os.path.exists(os.path.join(folder, READY)):
        point(base, request.key, folder)
        frames.send(out, Ready(ready=folder))
        return
    frames.send(out, Base(ready=None, place=shared_disk.of(request.workdir), **about))
    order = frames.receive(0, Wheels)
    if order is None:
        return
    wheels = order.wheels
    paths.private(os.path.dirname(base))
    os.makedirs(base, exist_ok=True)
    with flock.held(folder + ".lock", fcntl.LOCK_EX):
        said = ToolOutput(out)
        try:
            if not os.path.exists(os.path.join(folder, READY)):
                shutil.rmtree(folder, ignore_errors=True)
                if build(folder, python, request.requirements, wheels, said):
                    with atomic.written(os.path.join(folder, READY)) as file:
                        json.dump(dict(about, python=python), file)
        finally:
            built = os.path.exists(os.path.join(folder, READY))
            if not built:
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder + ".lock")
    if not built:
        frames.send(out, BuildFailed(failed=tuple(said.last[-LAST_WORDS:]), offline=said.offline))
        return
    point(base, request.key, folder)
    if wheels:
        shutil.rmtree(os.path.expanduser(wheels), ignore_errors=True)
    frames.send(out, Ready(ready=folder))


def build(folder: str, python: str, requirements: str, wheels: str | None, said: ToolOutput) -> bool:
    """Make the environment with uv or pip; whether it succeeded."""
    listing = folder + ".txt"
    with open(os.open(listing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(requirements + "\n")
    try:
        inner = os.path.join(folder, "bin", "python")
        sources = ["--no-index", "--find-links", os.path.expanduser(wheels)] if wheels else []
        uv = shutil.which("uv", path=os.environ.get("PATH", "") + ":" + os.path.expanduser("~/.local/bin"))
        if uv is not None:
            install = [uv, "pip", "install", "--python", inner, "-r", listing] + sources
            return said.run([uv, "venv", "-q", "--python", python, folder]) and said.run(install)
        # Debian's Python lacks ensurepip; the wheel of pip that came with the others runs as it is.
        carried = os.path.expanduser(wheels) if wheels else ""
        names = os.listdir(carried) if carried else []
        pip = [os.path.join(carried, name, "pip") for name in names if name.startswith("pip-")]
        if not said.run([python, "-m", "venv", folder] + (["--without-pip"] if pip else [])):
            said.line("to build environments here: apt install python3-venv, or install uv")
            return False
        install = [inner] + (pip[:1] or ["-m", "pip"]) + ["install", "--disable-pip-version-check", "--no-input"]
        return said.run(install + ["-r", listing] + sources)
    finally:
        os.unlink(listing)


class ToolOutput:
    """What the tools print: passed on, and the last of it kept."""

    def __init__(self, out: int) -> None:
        self.out = out
        self.last: list[str] = []
        self.offline = False
        self.child: subprocess.Popen[bytes] | None = None
        self.alone = False
        threading.Thread(target=self.leave_with_control, daemon=True).start()

    def line(self, text: str) -> None:
        """One line of theirs."""
        self.offline = self.offline or any(word in text for word in OFFLINE)
        self.last = (self.last + [text])[-100:]
        frames.send(self.out, Said(line=text[:300]))

    def run(self, argv: Sequence[str]) -> bool:
        """Whether a program succeeds. It ends if the control machine goes away, or this process."""
        me = os.getpid()
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: processes.die_with_parent(me),
            env=dict(os.environ, PIP_RETRIES="1", PIP_PROGRESS_BAR="off", UV_HTTP_TIMEOUT="20"),
        )
        self.child = child
        try:
            if self.alone:
                return False
            for line in child.stdout or ():
                self.line(line.decode("utf-8", "replace").rstrip())
            return child.wait() == 0
        finally:
            # What it started is in its group; while it has not been waited for, that is nobody else's.
            self.child = None
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            if child.stdout is not None:
                child.stdout.close()

    def leave_with_control(self) -> None:
        """End what runs when the end of stdin comes: nobody waits for it any more."""
        with contextlib.suppress(frames.WireError, OSError):
            frames.read_frame(0)
        self.alone = True
        child = self.child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def point(base: str, key: str, folder: str) -> None:
    """The name that the control side knows it by, without knowing this node's interpreter."""
    requests = os.path.join(base, "by-request")
    os.makedirs(requests, exist_ok=True)
    atomic.symlink(os.path.join("..", os.path.basename(folder)), os.path.join(requests, key))


def version_of(python: str) -> str:
    """``3.11.2``; raises Refused if it is no working Python."""
    try:
        text = bounded.run([python, "-c", ABOUT], 10.0)
        return str(json.loads(text.strip().splitlines()[-1])[0])
    except (bounded.NoAnswer, ValueError, IndexError) as error:
        raise Refused("%s is no working Python: %s" % (python, error), "tree") from None
