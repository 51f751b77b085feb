"""Where a node keeps things.

State lives in ``~/.orch/<hostname>/`` and not in ``~/.orch/``, because a home may be shared by several nodes.
"""

import os
import re
import socket

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def hostname():
    """This host's name. ``ORCH_HOSTNAME`` tells apart the hosts of a sandbox, which share one machine."""
    return os.environ.get("ORCH_HOSTNAME") or socket.gethostname()


def state_dir():
    """The folder of this host's state."""
    return os.path.join(os.path.expanduser("~"), ".orch", hostname())


def run_dir(run_id):
    """The folder of one run's state: events, logs. Raises ValueError for what cannot be a run id."""
    if not RUN_ID.match(run_id):
        raise ValueError("not a run id: %r" % run_id)
    return os.path.join(state_dir(), "runs", run_id)


def work_dir(workdir, run_id):
    """The working folder of one run, on the disk the user chose for such things."""
    return os.path.join(os.path.expanduser(workdir), "runs", hostname(), run_id)


def tree_dir(workdir, project, tree_id):
    """The immutable folder of one synced tree."""
    return os.path.join(os.path.expanduser(workdir), project, tree_id)
