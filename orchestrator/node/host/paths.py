"""Paths of orch's files on a node.

State is kept in ``~/.orch/<hostname>/``, not in ``~/.orch/``, because several nodes may share a home folder. The
state of a batch job is kept in the job's folder on a shared disk instead, where other machines read it.
"""

from __future__ import annotations

import glob
import os
import re
import stat

from ...protocol.refusal import Refused
from ...protocol.run import Kept
from ...protocol.shapes import decoded

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
# File in the attempt's folder that records how the attempt was started.
KEPT = "run.json"
# Suffix of the folder of a run's logs, which is beside the run's working folder.
LOGS = ".logs"
TREE_ID = re.compile(r"[0-9a-f]{32}\Z")
# File in an environment's folder that marks it as complete.
ENVIRONMENT_READY = ".orch-ready"
# The variable that holds the folder of a batch job.
SHARED_STATE = "ORCH_STATE"


def hostname() -> str:
    """Return this host's name.

    ``ORCH_HOSTNAME`` sets it for the hosts of a sandbox, which share one machine, and for the nodes of a batch
    job: ``node<node_rank>``, so that a job that starts again on other machines finds its working folders.
    """
    return os.environ.get("ORCH_HOSTNAME") or os.uname().nodename


def state_dir() -> str:
    """Return the folder of this host's state."""
    base = os.environ.get(SHARED_STATE) or os.path.join(os.path.expanduser("~"), ".orch")
    return os.path.join(base, hostname())


def is_shared() -> bool:
    """Return whether the state is that of a batch job, whose supervisor may be on another machine."""
    return bool(os.environ.get(SHARED_STATE))


def run_dir(run_id: str) -> str:
    """Return the folder of a run's state; raises ValueError if ``run_id`` is not a valid run id."""
    if not RUN_ID.match(run_id):
        raise ValueError("not a run id: %r" % run_id)
    return os.path.join(state_dir(), "runs", run_id)


def attempt_dir(run_id: str, attempt: int) -> str:
    """Return the folder of an attempt's state: its record, events and logs."""
    return os.path.join(run_dir(run_id), "attempt%d" % attempt)


def attempts(run_id: str) -> list[int]:
    """Return the sorted numbers of the attempts that this host took part in; none if ``run_id`` is not valid."""
    try:
        names = os.listdir(run_dir(run_id))
    except (OSError, ValueError):
        return []
    return sorted(int(name[7:]) for name in names if name.startswith("attempt") and name[7:].isdigit())


def kept(run_id: str, attempt: int) -> Kept | None:
    """Return the record of how an attempt was started, or None if it is missing or damaged."""
    try:
        with open(os.path.join(attempt_dir(run_id, attempt), KEPT), "rb") as file:
            return Kept.from_wire(decoded(file.read()))
    except (OSError, ValueError):
        return None


def rebooted(run_id: str, attempt: int) -> bool:
    """Return whether this host has been rebooted since an attempt began; False for another machine's attempt."""
    if is_shared():
        return False
    known = kept(run_id, attempt)
    return known is not None and known.boot_id is not None and known.boot_id != boot_id()


def boot_id() -> str:
    """Return the id that the kernel generates at each boot (random(4)); empty if there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def run_ids() -> list[str]:
    """Return the id of every run that this host took part in, the oldest first."""
    try:
        return sorted(os.listdir(os.path.join(state_dir(), "runs")))
    except OSError:
        return []


def work_dir(workdir: str, run_id: str) -> str:
    """Return the working folder of a run, below the workdir."""
    return os.path.join(os.path.expanduser(workdir), "runs", hostname(), run_id)


def private(folder: str) -> str:
    """Make a folder that only this user can write to, and return it; raises Refused if other users could.

    A workdir may be in a place where every user can make folders; one that another user made there is refused.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for status in (os.lstat(folder), os.stat(folder)):
        if not is_ours(status, folder):
            what = "%s belongs to another user (uid %d): choose another workdir" % (folder, status.st_uid)
            raise Refused(what, "tree")
    if status.st_mode & 0o022:
        os.chmod(folder, status.st_mode & 0o755)
    above = os.stat(os.path.dirname(folder))
    if above.st_mode & 0o002 and not above.st_mode & stat.S_ISVTX:
        what = "every user may rename what is in %s: choose another workdir" % os.path.dirname(folder)
        raise Refused(what, "tree")
    return folder


def is_ours(status: os.stat_result, path: str) -> bool:
    """Return whether a file belongs to this user.

    A file server may store root's files under another user id, 60000 or above; then a new file in the same folder
    must get the same one.
    """
    if status.st_uid == os.geteuid():
        return True
    if os.geteuid() != 0 or status.st_uid < 60000:
        return False
    # Loading it takes a while, and only root needs it.
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
            return os.fstat(file.fileno()).st_uid == status.st_uid
    except OSError:
        return False


def logs_dir(workdir: str, run_id: str, attempt: int) -> str:
    """Return the folder of an attempt's logs."""
    return os.path.join(work_dir(workdir, run_id) + LOGS, "attempt%d" % attempt)


def own_dir(workdir: str) -> str:
    """Return the folder of orch's own files in the workdir: blobs, environments, records."""
    return os.path.join(os.path.expanduser(workdir), ".orch")


def projects(workdir: str) -> list[str]:
    """Return the sorted names of the projects that have trees in a workdir."""
    return sorted({os.path.basename(os.path.dirname(tree)) for tree in trees(workdir)})


def trees(workdir: str, project: str | None = None) -> list[str]:
    """Return the folders of the synced trees in a workdir, of one project or, with None, of all."""
    base = os.path.expanduser(workdir)
    below = glob.glob(os.path.join(glob.escape(base), "*" if project is None else glob.escape(project), "*"))
    # A synced tree has a list of its entries beside it; other folders with such names are not orch's.
    return [path for path in below if TREE_ID.match(os.path.basename(path)) and os.path.exists(path + ".json")]


def newest_tree(workdir: str, project: str) -> str | None:
    """Return the id of the project's tree that was synced last, or None."""
    found = trees(workdir, project)
    if not found:
        return None
    return os.path.basename(max(found, key=lambda tree: os.stat(tree + ".json").st_mtime_ns))


def tree_dir(workdir: str, project: str, tree_id: str) -> str:
    """Return the folder of a synced tree, which is never changed."""
    return os.path.join(os.path.expanduser(workdir), project, tree_id)
