"""A rank's process: give the script torchrun's variables and log files, and report a failure as torchrun does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from ..host import processes
from ..modules import python_path
from . import part
from .launch import code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Rank, size, local rank and local size, as Open MPI and PRRTE, and as MPICH's hydra call them.
NAMES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
# The group of log folders, in which torchrun puts the rendezvous id.
GROUP = "mpi"
# The line by which the supervisor knows a failure, as torchrun's agent logs it
# (torch/distributed/elastic/multiprocessing/api.py).
FAILED = "failed (exitcode: %d) local_rank: %d (pid: %d) of binary: %s"
# How long after the SIGTERM that ended the script one for this process may come, in seconds: mpirun sends both.
SAME_SIGNAL = 0.3


def main() -> int:
    """Run the rank's script to its end, and end as it did."""
    place = part.Place()
    told = variables(os.environ)
    if told is None:
        sys.stderr.write("orch: this mpirun names no rank: neither Open MPI's nor MPICH's variables are set\n")
        return 1
    local_rank = int(told["LOCAL_RANK"])
    folder = os.path.join(place.logs, GROUP, "attempt_0", told["LOCAL_RANK"])
    os.makedirs(folder, exist_ok=True)
    own = (part.VARIABLE, part.PYTHON, part.PROGRAM)
    env = {name: value for name, value in os.environ.items() if name not in own}
    argv = list(place.part.argv)
    stopped: list[int] = []
    me = os.getpid()
    # If the daemon dies, so does this process, and with it the script.
    processes.die_with_parent(os.getppid())
    with open(os.path.join(folder, "stdout.log"), "ab") as out, open(
        os.path.join(folder, "stderr.log"), "ab"
    ) as err:
        # MPICH gives a rank an open descriptor (PMI_FD).
        script = subprocess.Popen(
            argv,
            cwd=place.cwd,
            # mpirun's own variables are those of the host that it runs on.
            env={**env, **told, **python_path(env)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            close_fds=False,
            preexec_fn=lambda: processes.die_with_parent(me),
        )

    def pass_on(number: int, _frame: object) -> None:
        stopped.append(number)
        script.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    # hydra tells processes of a failure elsewhere by this signal, which would end this one.
    signal.signal(signal.SIGUSR1, lambda *_: None)
    code = script.wait()
    if code == -signal.SIGTERM and not stopped:
        time.sleep(SAME_SIGNAL)
    if code and not stopped:
        place.note(FAILED % (code, local_rank, script.pid, argv[0]))
    # A stopped launcher does not end with 0, whatever its ranks make of the signal; torchrun neither.
    ended = code_of(code if code or not stopped else -stopped[0])
    if ended:
        place.note_code(ended)
    return ended


def variables(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return the variables that torchrun would set, from MPI's; None if there are none."""
    for rank, size, local_rank, local_size in NAMES:
        if rank in environ and local_rank in environ:
            local = environ.get(local_size) or environ.get("NPROC_PER_NODE", "1")
            found = {
                "RANK": environ[rank],
                "WORLD_SIZE": environ[size],
                "LOCAL_RANK": environ[local_rank],
                "LOCAL_WORLD_SIZE": local,
                "GROUP_RANK": environ.get("NODE_RANK", "0"),
                "GROUP_WORLD_SIZE": environ.get("NNODES", "1"),
                "ROLE_RANK": environ[rank],
                "ROLE_WORLD_SIZE": environ[size],
            }
            # As torchrun does: threads of several ranks would compete for the cores.
            return found if local == "1" or "OMP_NUM_THREADS" in environ else {**found, "OMP_NUM_THREADS": "1"}
    return None
