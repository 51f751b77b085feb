"""Find the processes of a run, by descent from the supervisor and by the mark in their environment."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal

from .paths import SHARED_STATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # Run id and attempt.
    Mark = tuple[str, int]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# The umask of this user's programs on this host; orch's own files get a stricter one.
login_umask = 0o022
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make this process the parent of its orphaned descendants (prctl(2)); raises OSError."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def die_with_parent(parent: int) -> None:
    """In a new child, restore the user's umask and get SIGTERM when ``parent`` dies, or now if it has died."""
    os.umask(login_umask)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def pids() -> list[int]:
    """Return every process id on this host."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environment(pid: int) -> list[bytes]:
    """Return the variables that a process was started with, as ``NAME=value``; empty if they cannot be read."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def variable(pid: int, name: str) -> str | None:
    """Return one environment variable of a process, or None."""
    start = name.encode() + b"="
    for entry in environment(pid):
        if entry.startswith(start):
            return entry[len(start) :].decode("utf-8", "surrogateescape")
    return None


def stat(pid: int) -> tuple[str, int] | None:
    """Return ``(state, parent pid)`` of a process, or None if it is gone (proc_pid_stat(5))."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1])


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot (proc_pid_stat(5)); empty if it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    found = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as file:
                found += [int(word) for word in file.read().split()]
    except FileNotFoundError:
        # The kernel lacks CONFIG_PROC_CHILDREN, or the process is gone.
        return [child for child in pids() if (stat(child) or ("", 0))[1] == pid]
    except OSError:
        return []
    return found


def heedless(pid: int) -> bool:
    """Return whether a process ignores SIGTERM as the first of a process namespace that has set no handler.

    That is a container's first process while it starts (pid_namespaces(7), proc_pid_status(5): NSpid, SigCgt).
    """
    try:
        with open("/proc/%d/status" % pid, "rb") as lines:
            fields = dict(line.partition(b":")[::2] for line in lines)
        inner = fields[b"NSpid"].split()
        caught = int(fields[b"SigCgt"], 16)
    except (OSError, KeyError, ValueError):
        return False
    return len(inner) > 1 and inner[-1] == b"1" and not caught >> (signal.SIGTERM - 1) & 1


def descendants(pid: int) -> list[int]:
    """Return every descendant of a process."""
    found = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children(parent)]
        found += level
    return found


def marks() -> dict[int, Mark]:
    """Return the live processes that bear the mark of a run: ``{pid: (run id, attempt)}``.

    Only this user's processes count, because any user can start a process with such a mark, and root can read it.
    Hosts of a sandbox share a kernel; there ORCH_HOSTNAME tells to which host a process belongs, and ORCH_STATE to
    which batch job.
    """
    names = ("ORCH_HOSTNAME", SHARED_STATE)
    here = [os.environ.get(name, "").encode() for name in names]
    found = {}
    for pid in pids():
        values = dict(entry.partition(b"=")[::2] for entry in environment(pid) if entry.startswith(b"ORCH_"))
        run_id = values.get(b"ORCH_RUN_ID")
        there = [values.get(name.encode(), b"") for name in names]
        if run_id and there == here and alive(pid) and user(pid) == os.getuid():
            attempt = values.get(b"ORCH_ATTEMPT", b"1")
            found[pid] = (run_id.decode("utf-8", "replace"), int(attempt) if attempt.isdigit() else 1)
    return found


def user(pid: int) -> int | None:
    """Return the real user id of a process, or None if it is gone (proc_pid_status(5))."""
    try:
        with open("/proc/%d/status" % pid, "rb") as lines:
            for line in lines:
                if line.startswith(b"Uid:"):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def described(targets: Iterable[int]) -> list[str]:
    """Describe processes for the user, ``["pid 412 (python3) of alice", ...]``, except those that are gone."""
    found = []
    for pid in targets:
        uid = user(pid)
        try:
            with open("/proc/%d/comm" % pid, "rb") as file:
                name = file.read().decode("utf-8", "replace").strip()
        except OSError:
            continue
        if uid is None:
            continue
        try:
            owner = pwd.getpwuid(uid).pw_name
        except KeyError:
            owner = "uid %d" % uid
        found.append("pid %d (%s) of %s" % (pid, name, owner))
    return found


def alive(pid: int) -> bool:
    """Return whether a process exists and is neither a zombie nor dead."""
    return (stat(pid) or ("Z", 0))[0] not in "ZX"


def marked(run_id: str, attempt: int) -> list[int]:
    """Return the live processes with the mark of an attempt, without this process."""
    return sorted(pid for pid, mark in marks().items() if mark == (run_id, attempt) and pid != os.getpid())


def of_run(run_id: str, attempt: int) -> list[int]:
    """Return the live processes of an attempt: those with its mark, and the descendants of this process."""
    found = set(marked(run_id, attempt))
    found.update(pid for pid in descendants(os.getpid()) if alive(pid))
    found.discard(os.getpid())
    return sorted(found)


def send(signal_number: int, targets: Iterable[int]) -> None:
    """Send a signal to each process, except those that are gone or belong to another user."""
    for pid in targets:
        try:
            os.kill(pid, signal_number)
        except (ProcessLookupError, PermissionError):
            continue
