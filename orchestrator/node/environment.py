"""The verb ``environment``: build a virtual environment, once for its packages, interpreter and platform.

A conversation. Request: ``{"workdir", "key", "requirements": text, "python": interpreter or null}``. Answer:
``{"ready": path}`` if it is here, else ``{"ready": null, "place", "version", "machine", "libc"}``; then the order
``{"wheels": folder on this node or null}``. Without wheels packages come from where pip or uv get them themselves.
While it is built ``{"line": text}`` comes for what they say, at the end ``{"ready": path}``, or ``{"failed": their
last words, "offline": whether the network seems to be why}``. A build that failed leaves nothing.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading

from . import blobs, bounded, flock, machine, paths, place, processes, wire
from .refusal import Refused

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


def answer(request, out):
    """Say whether it is here, else build it."""
    base = os.path.join(paths.own_dir(request["workdir"]), "envs")
    python = shutil.which(os.path.expanduser(request["python"] or "python3"))
    if python is None:
        raise Refused("no such program: %s" % request["python"], "tree")
    version = version_of(python)
    about = {"version": version, "machine": os.uname().machine, "libc": machine.libc()}
    kind = json.dumps([request["requirements"], python] + sorted(about.items()))
    folder = os.path.join(base, hashlib.sha256(kind.encode("ascii")).hexdigest()[:32])
    if os.path.exists(os.path.join(folder, READY)):
        point(base, request["key"], folder)
        wire.write_all(out, wire.json_frame({"ready": folder}))
        return
    wire.write_all(out, wire.json_frame(dict(about, ready=None, place=place.of(request["workdir"]))))
    frame = wire.read_frame(0)
    if frame is None:
        return
    wheels = json.loads(frame[1].decode("ascii"))["wheels"]
    paths.private(os.path.dirname(base))
    os.makedirs(base, exist_ok=True)
    with flock.held(folder + ".lock", fcntl.LOCK_EX):
        said = Said(out)
        try:
            if not os.path.exists(os.path.join(folder, READY)):
                shutil.rmtree(folder, ignore_errors=True)
                if build(folder, python, request["requirements"], wheels, said):
                    with blobs.written(os.path.join(folder, READY)) as file:
                        json.dump(dict(about, python=python), file)
        finally:
            built = os.path.exists(os.path.join(folder, READY))
            if not built:
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(folder + ".lock")
    if not built:
        wire.write_all(out, wire.json_frame({"failed": said.last[-LAST_WORDS:], "offline": said.offline}))
        return
    point(base, request["key"], folder)
    if wheels:
        shutil.rmtree(os.path.expanduser(wheels), ignore_errors=True)
    wire.write_all(out, wire.json_frame({"ready": folder}))


def build(folder, python, requirements, wheels, said):
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
        carried = os.listdir(os.path.expanduser(wheels)) if wheels else []
        pip = [
            os.path.join(os.path.expanduser(wheels), name, "pip") for name in carried if name.startswith("pip-")
        ]
        if not said.run([python, "-m", "venv", folder] + (["--without-pip"] if pip else [])):
            said.line("to build environments here: apt install python3-venv, or install uv")
            return False
        install = [inner] + (pip[:1] or ["-m", "pip"]) + ["install", "--disable-pip-version-check", "--no-input"]
        return said.run(install + ["-r", listing] + sources)
    finally:
        os.unlink(listing)


class Said:
    """What the tools print: passed on, and the last of it kept."""

    def __init__(self, out):
        self.out = out
        self.last = []
        self.offline = False
        self.child = None
        self.alone = False
        threading.Thread(target=self.leave_with_control, daemon=True).start()

    def line(self, text):
        """One line of theirs."""
        self.offline = self.offline or any(word in text for word in OFFLINE)
        self.last = (self.last + [text])[-100:]
        wire.write_all(self.out, wire.json_frame({"line": text[:300]}))

    def run(self, argv):
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
            for line in child.stdout:
                self.line(line.decode("utf-8", "replace").rstrip())
            return child.wait() == 0
        finally:
            # What it started is in its group; while it has not been waited for, that is nobody else's.
            self.child = None
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            child.stdout.close()

    def leave_with_control(self):
        """End what runs when the end of stdin comes: nobody waits for it any more."""
        with contextlib.suppress(wire.WireError, OSError):
            wire.read_frame(0)
        self.alone = True
        child = self.child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def point(base, key, folder):
    """The name that the control side knows it by, without knowing this node's interpreter."""
    if not paths.TREE_ID.match(key):
        raise Refused("not a key: %r" % key, "path")
    requests = os.path.join(base, "by-request")
    os.makedirs(requests, exist_ok=True)
    aside = os.path.join(requests, blobs.partial_name())
    os.symlink(os.path.join("..", os.path.basename(folder)), aside)
    os.replace(aside, os.path.join(requests, key))


def version_of(python):
    """``3.11.2``; raises Refused if it is no working Python."""
    try:
        text = bounded.run([python, "-c", ABOUT], 10.0)
        return json.loads(text.strip().splitlines()[-1])[0]
    except (bounded.Failed, ValueError, IndexError) as error:
        raise Refused("%s is no working Python: %s" % (python, error), "tree") from None
