"""The first node's mpirun, its launch agent, and the daemons on the other nodes."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

from ...protocol.launch.mpi import AGENT, MpiFound
from ..host import atomic, bounded, processes
from . import part
from .exchange import LOOK, Counter, NoCommand, command_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Names of MPI's starter, the usual one first.
STARTERS = ("mpirun", "mpiexec")
# Longest time that a starter may take to tell its version, in seconds.
LIMIT = 8.0
# How many lines tell which MPI it is.
TELLING = 3


def found(python: str) -> MpiFound | None:
    """Return the mpirun beside the training interpreter, else the one in PATH; None if there is none."""
    beside = os.path.dirname(os.path.expanduser(python)) if "/" in python else ""
    for folder in filter(None, (beside, os.environ.get("PATH", os.defpath))):
        for name in STARTERS:
            program = shutil.which(name, path=folder)
            if program is not None:
                said = bounded.run([program, "--version"], LIMIT)
                return MpiFound(program=program, said="\n".join(said.strip().splitlines()[:TELLING]))
    return None


def lead(argv: Sequence[str]) -> int:
    """Run mpirun, and give the other nodes the command lines of its daemons. Return mpirun's exit code."""
    place = part.Place()
    os.makedirs(place.asked, mode=0o700, exist_ok=True)
    path = agent_path(place)
    with open(path, "w") as file:
        # MPICH takes a program without arguments.
        file.write('#!/bin/sh\nexec %s "$@"\n' % quoted(part.program("mpi-agent")))
    os.chmod(path, 0o700)
    if len(place.part.hosts) > 1:
        try:
            Counter(place)
        except OSError as error:
            sys.stderr.write("orch: port %d of %s: %s\n" % (place.part.port, place.part.host, error.strerror))
            return 1
    me = os.getpid()
    mpirun = subprocess.Popen(
        [path if word == AGENT else word for word in argv],
        cwd="/",
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: processes.die_with_parent(me),
    )
    signal.signal(signal.SIGTERM, lambda *_: mpirun.send_signal(signal.SIGTERM))
    return code_of(mpirun.wait())


def agent(words: Sequence[str]) -> int:
    """Do what mpirun expects of ``ssh [OPTIONS] HOST COMMAND...``: let the host start its daemon."""
    place = part.Place()
    at = next((number for number, word in enumerate(words) if word in place.part.hosts), None)
    if at is None:
        sys.stderr.write("orch: mpirun asks for a host that has no part in the run: %s\n" % quoted(words))
        return 1
    # Open MPI's daemons look for the agent that they are told of, though none of them uses it.
    host, command = words[at], " ".join(words[at + 1 :]).replace(agent_path(place), "sh")
    if host == place.part.host:
        os.execvp(login_shell(), [login_shell(), "-c", command])
    # Like ssh, the agent ends with the command: MPICH takes its end for the daemon's.
    processes.die_with_parent(os.getppid())
    with atomic.written(place.command_file(host)) as file:
        file.write(command)
    while not os.path.exists(place.over_file(host)):
        time.sleep(LOOK)
    return 0


def agent_path(place: part.Place) -> str:
    """Return the path of the launch agent, on the first node."""
    return os.path.join(place.asked, "agent")


def daemon() -> int:
    """Become mpirun's daemon on this node, once mpirun asks for it; return 1 if it does not."""
    place = part.Place()
    try:
        command = command_for(place)
    except NoCommand as error:
        sys.stderr.write("orch: %s\n" % error)
        return 1
    return os.execvp(login_shell(), [login_shell(), "-c", command])


def login_shell() -> str:
    """Return this user's shell: mpirun writes the command lines of its daemons for it."""
    with contextlib.suppress(KeyError):
        import pwd

        shell = pwd.getpwuid(os.getuid()).pw_shell
        if shell and os.access(shell, os.X_OK):
            return shell
    return "/bin/sh"


def quoted(words: Sequence[str]) -> str:
    """Return a command line for a shell."""
    return " ".join(map(shlex.quote, words))


def code_of(code: int) -> int:
    """Return the exit code that a shell would report for a process."""
    return 128 - code if code < 0 else code
