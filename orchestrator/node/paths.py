"""Where a node keeps things.

State lives in ``~/.orch/<hostname>/`` and not in ``~/.orch/``, because a home may be shared by several nodes.
"""

import glob
import json
import os
import re
import secrets
import socket
import stat
import tempfile

from .refusal import Refused

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
# What the folder of a run's logs is called by beside its working folder.
LOGS = ".logs"
TREE_ID = re.compile(r"[0-9a-f]{32}\Z")


def hostname():
    """This host's name. ``ORCH_HOSTNAME`` tells apart the hosts of a sandbox, which share one machine."""
    return os.environ.get("ORCH_HOSTNAME") or socket.gethostname()


def state_dir():
    """The folder of this host's state."""
    return os.path.join(os.path.expanduser("~"), ".orch", hostname())


def run_dir(run_id):
    """The folder of one run's state. Raises ValueError for what cannot be a run id."""
    if not RUN_ID.match(run_id):
        raise ValueError("not a run id: %r" % run_id)
    return os.path.join(state_dir(), "runs", run_id)


def attempt_dir(run_id, attempt):
    """The folder of one attempt: what was asked for, events, logs."""
    return os.path.join(run_dir(run_id), "attempt%d" % attempt)


def attempts(run_id):
    """The numbers of the attempts that this host had a part in, in order; none of what can be no run."""
    try:
        names = os.listdir(run_dir(run_id))
    except (OSError, ValueError):
        return []
    return sorted(int(name[7:]) for name in names if name.startswith("attempt") and name[7:].isdigit())


def asked(run_id, attempt):
    """What an attempt was started with (``run.json``), or None if that is not there, or damaged."""
    try:
        with open(os.path.join(attempt_dir(run_id, attempt), "run.json")) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def rebooted(run_id, attempt):
    """Whether this host was started anew since an attempt began."""
    began_under = (asked(run_id, attempt) or {}).get("boot_id")
    return began_under is not None and began_under != boot_id()


def boot_id():
    """A number that the kernel makes at each start (random(4)); empty where it does not."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def run_ids():
    """Every run that this host had a part in, the oldest first."""
    try:
        return sorted(os.listdir(os.path.join(state_dir(), "runs")))
    except OSError:
        return []


def work_dir(workdir, run_id):
    """The working folder of one run, on the disk the user chose for such things."""
    return os.path.join(os.path.expanduser(workdir), "runs", hostname(), run_id)


def private(folder):
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


def is_ours(status, path):
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


def secret():
    """This user's random bytes on this host, the same every time: 32 of them."""
    path = os.path.join(state_dir(), "secret")
    if not os.path.exists(path):
        os.makedirs(state_dir(), mode=0o700, exist_ok=True)
        aside = "%s.%s" % (path, secrets.token_hex(8))
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        os.replace(aside, path)
    with open(path, "rb") as file:
        return file.read()


def logs_dir(workdir, run_id, attempt):
    """The folder of what one attempt prints."""
    return os.path.join(work_dir(workdir, run_id) + LOGS, "attempt%d" % attempt)


def own_dir(workdir):
    """The folder of what orch keeps beside the trees: blobs, environments, records."""
    return os.path.join(os.path.expanduser(workdir), ".orch")


def projects(workdir):
    """The names of the projects that have trees below a workdir."""
    return sorted({os.path.basename(os.path.dirname(tree)) for tree in trees(workdir)})


def trees(workdir, project=None):
    """The synced trees below a workdir, of one project or of all: their folders."""
    base = os.path.expanduser(workdir)
    below = glob.glob(os.path.join(glob.escape(base), "*" if project is None else glob.escape(project), "*"))
    # Each has a list of its entries beside it; what else has such a name is not ours.
    return [path for path in below if TREE_ID.match(os.path.basename(path)) and os.path.exists(path + ".json")]


def tree_dir(workdir, project, tree_id):
    """The immutable folder of one synced tree."""
    return os.path.join(os.path.expanduser(workdir), project, tree_id)
