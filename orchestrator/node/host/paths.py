"""Where a node keeps things.

State lives in ``~/.orch/<hostname>/`` and not in ``~/.orch/``, because a home may be shared by several nodes.
"""

from __future__ import annotations

import glob
import os
import re
import socket
import stat
import tempfile

from ...protocol.refusal import Refused
from ...protocol.run import Kept
from ...protocol.shapes import decoded

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
# What an attempt was started with, in the attempt's folder.
KEPT = "run.json"
# What the folder of a run's logs is called by beside its working folder.
LOGS = ".logs"
TREE_ID = re.compile(r"[0-9a-f]{32}\Z")


def hostname() -> str:
    """This host's name. ``ORCH_HOSTNAME`` tells apart the hosts of a sandbox, which share one machine."""
    return os.environ.get("ORCH_HOSTNAME") or socket.gethostname()


def state_dir() -> str:
    """The folder of this host's state."""
    return os.path.join(os.path.expanduser("~"), ".orch", hostname())


def run_dir(run_id: str) -> str:
    """The folder of one run's state. Raises ValueError for what cannot be a run id."""
    if not RUN_ID.match(run_id):
        raise ValueError("not a run id: %r" % run_id)
    return os.path.join(state_dir(), "runs", run_id)


def attempt_dir(run_id: str, attempt: int) -> str:
    """The folder of one attempt: what was asked for, events, logs."""
    return os.path.join(run_dir(run_id), "attempt%d" % attempt)


def attempts(run_id: str) -> list[int]:
    """The numbers of the attempts that this host had a part in, in order; none of what can be no run."""
    try:
        names = os.listdir(run_dir(run_id))
    except (OSError, ValueError):
        return []
    return sorted(int(name[7:]) for name in names if name.startswith("attempt") and name[7:].isdigit())


def kept(run_id: str, attempt: int) -> Kept | None:
    """What an attempt was started with, or None if that is not there, or damaged."""
    try:
        with open(os.path.join(attempt_dir(run_id, attempt), KEPT), "rb") as file:
            return Kept.from_wire(decoded(file.read()))
    except (OSError, ValueError):
        return None


def rebooted(run_id: str, attempt: int) -> bool:
    """Whether this host was started anew since an attempt began."""
    known = kept(run_id, attempt)
    return known is not None and known.boot_id is not None and known.boot_id != boot_id()


def boot_id() -> str:
    """A number that the kernel makes at each start (random(4)); empty where it does not."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def run_ids() -> list[str]:
    """Every run that this host had a part in, the oldest first."""
    try:
        return sorted(os.listdir(os.path.join(state_dir(), "runs")))
    except OSError:
        return []


def work_dir(workdir: str, run_id: str) -> str:
    """The working folder of one run, on the disk the user chose for such things."""
    return os.path.join(os.path.expanduser(workdir), "runs", hostname(), run_id)


def private(folder: str) -> str:
    """Make a folder that only this user writes to, and return it; raises Refused if others could, too.

    A workdir may lie where every user may make folders: one that somebody else made there first is not used.
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
    """Whether a file is this user's, as its disk has it: a server may write root's files down as another's."""
    if status.st_uid == os.geteuid():
        return True
    if os.geteuid() != 0 or status.st_uid < 60000:
        return False
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path)) as file:
            return os.fstat(file.fileno()).st_uid == status.st_uid
    except OSError:
        return False


def logs_dir(workdir: str, run_id: str, attempt: int) -> str:
    """The folder of what one attempt prints."""
    return os.path.join(work_dir(workdir, run_id) + LOGS, "attempt%d" % attempt)


def own_dir(workdir: str) -> str:
    """The folder of what orch keeps beside the trees: blobs, environments, records."""
    return os.path.join(os.path.expanduser(workdir), ".orch")


def projects(workdir: str) -> list[str]:
    """The names of the projects that have trees below a workdir."""
    return sorted({os.path.basename(os.path.dirname(tree)) for tree in trees(workdir)})


def trees(workdir: str, project: str | None = None) -> list[str]:
    """The synced trees below a workdir, of one project or of all: their folders."""
    base = os.path.expanduser(workdir)
    below = glob.glob(os.path.join(glob.escape(base), "*" if project is None else glob.escape(project), "*"))
    # Each has a list of its entries beside it; what else has such a name is not ours.
    return [path for path in below if TREE_ID.match(os.path.basename(path)) and os.path.exists(path + ".json")]


def tree_dir(workdir: str, project: str, tree_id: str) -> str:
    """The immutable folder of one synced tree."""
    return os.path.join(os.path.expanduser(workdir), project, tree_id)
