"""The verb ``environment``: build a virtual environment once for each set of packages, interpreter and platform.

A failed build leaves nothing behind.
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

# Number of last output lines to report of a failed build.
LAST_WORDS = 12
ABOUT = "import json, sys; print('\\n' + json.dumps(['%d.%d.%d' % sys.version_info[:3], sys.executable]))"
# Texts that pip and uv print when they cannot reach an index.
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
    """Report the environment if it exists, else build it; raises Refused if the interpreter does not work."""
    base = os.path.join(paths.own_dir(request.workdir), "envs")
    wanted = request.python or "python3"
    python = shutil.which(os.path.expanduser(wanted))
    if python is None:
        raise Refused("no such program: %s" % wanted, "tree")
    version = version_of(python)
    about = {"version": version, "machine": os.uname().machine, "libc": machine.libc()}
    kind = json.dumps([request.requirements, python] + sorted(about.items()))
    folder = os.path.join(base, hashlib.sha256(kind.encode("ascii")).hexdigest()[:32])
    if os.path.exists(os.path.join(folder, paths.ENVIRONMENT_READY)):
        link_request(base, request.key, folder)
        frames.send(out, Ready(ready=folder))
        return
    frames.send(out, Base(ready=None, disk_id=shared_disk.of(request.workdir), **about))
    order = frames.receive(0, Wheels)
    if order is None:
        return
    wheels = order.wheels
    paths.private(os.path.dirname(base))
    os.makedirs(base, exist_ok=True)
    with flock.held(folder + ".lock", fcntl.LOCK_EX):
        said = ToolOutput(out)
        try:
            if not os.path.exists(os.path.join(folder, paths.ENVIRONMENT_READY)):
                shutil.rmtree(folder, ignore_errors=True)
                if build(folder, python, request.requirements, wheels, said):
                    with atomic.written(os.path.join(folder, paths.ENVIRONMENT_READY)) as file:
                        json.dump(dict(about, python=python), file)
        finally:
            built = os.path.exists(os.path.join(folder, paths.ENVIRONMENT_READY))
            if not built:
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder + ".lock")
    if not built:
        frames.send(out, BuildFailed(failed=tuple(said.last[-LAST_WORDS:]), offline=said.offline))
        return
    link_request(base, request.key, folder)
    if wheels:
        shutil.rmtree(os.path.expanduser(wheels), ignore_errors=True)
    frames.send(out, Ready(ready=folder))


def build(folder: str, python: str, requirements: str, wheels: str | None, said: ToolOutput) -> bool:
    """Build the environment with uv, or with venv and pip where there is no uv; return whether that succeeded.

    ``requirements``: contents of a requirements file. ``wheels``: folder of wheels to use instead of the index.
    """
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
        # Debian's Python lacks ensurepip, so run pip straight from its wheel, which was sent with the others.
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
    """Runs pip and uv, passes their output on, and keeps the last 100 lines."""

    def __init__(self, out: int) -> None:
        self.out = out
        self.last: list[str] = []
        self.offline = False
        self.child: subprocess.Popen[bytes] | None = None
        self.alone = False
        threading.Thread(target=self.leave_with_control, daemon=True).start()

    def line(self, text: str) -> None:
        """Record one line of output and send it to the control side."""
        self.offline = self.offline or any(word in text for word in OFFLINE)
        self.last = (self.last + [text])[-100:]
        frames.send(self.out, Said(line=text[:300]))

    def run(self, argv: Sequence[str]) -> bool:
        """Run a program and return whether it succeeded; it is ended when stdin or this process ends."""
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
            # Kill the whole process group. Its id cannot be reused before the child has been waited for.
            self.child = None
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            if child.stdout is not None:
                child.stdout.close()

    def leave_with_control(self) -> None:
        """Kill the running program when stdin ends, because the control machine no longer waits for the result."""
        with contextlib.suppress(frames.WireError, OSError):
            frames.read_frame(0)
        self.alone = True
        child = self.child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def link_request(base: str, key: str, folder: str) -> None:
    """Link ``by-request/<key>`` to the environment, because the control side cannot compute the folder's name."""
    requests = os.path.join(base, "by-request")
    os.makedirs(requests, exist_ok=True)
    atomic.symlink(os.path.join("..", os.path.basename(folder)), os.path.join(requests, key))


def version_of(python: str) -> str:
    """Return the version of an interpreter, ``3.11.2``; raises Refused if it does not work."""
    try:
        text = bounded.run([python, "-c", ABOUT], 10.0)
        return str(json.loads(text.strip().splitlines()[-1])[0])
    except (bounded.NoAnswer, ValueError, IndexError) as error:
        raise Refused("%s is not a working Python: %s" % (python, error), "tree") from None
