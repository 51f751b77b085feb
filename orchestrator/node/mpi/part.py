"""What the processes of this package know of the attempt: the variable ``ORCH_MPI``, which the supervisor sets.

A variable, because it holds the attempt's key and the script's arguments: other users cannot read it.
"""

from __future__ import annotations

import json
import os
import sys

from ...protocol.launch.mpi import MpiPart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...protocol.run import Start

VARIABLE = "ORCH_MPI"
# How a rank's process starts, on every node: mpirun gives all hosts the same command line.
PYTHON, PROGRAM = "ORCH_MPI_PYTHON", "ORCH_MPI_PROGRAM"
# In the attempt's folder: the folder of this package's files, and there the exit codes of ranks.
FOLDER, CODES = "mpi", "codes"


def variables(request: Start, folder: str, work: str) -> dict[str, str]:
    """Return the variables for a node's part. ``folder``: of the attempt. ``work``: the working folder."""
    if request.mpi is None:
        return {}
    known = {"part": request.mpi.to_wire(), "folder": folder, "cwd": os.path.join(work, request.cwd)}
    return {VARIABLE: json.dumps(known), PYTHON: sys.executable, PROGRAM: os.path.abspath(sys.argv[0])}


def first_code(folder: str) -> int:
    """Return the exit code of this node's first rank that did not succeed, 0 if there is none.

    mpirun's daemons end with 0 whatever their ranks do. ``folder``: of the attempt.
    """
    try:
        with open(os.path.join(folder, FOLDER, CODES)) as file:
            return int(file.readline() or 0)
    except (OSError, ValueError):
        return 0


class Place:
    """This node's part of the attempt. ``folder``: of the attempt. ``cwd``: where ranks start."""

    def __init__(self) -> None:
        known = json.loads(os.environ[VARIABLE])
        self.part = MpiPart.from_wire(known["part"])
        self.folder: str = known["folder"]
        self.cwd: str = known["cwd"]
        self.logs = os.path.join(self.folder, "logs")
        # Here the launch agents leave the command lines of the daemons.
        self.asked = os.path.join(self.folder, FOLDER)

    def command_file(self, host: str) -> str:
        """Return the file that holds the command line of a host's daemon."""
        return os.path.join(self.asked, "%d" % self.part.hosts.index(host))

    def over_file(self, host: str) -> str:
        """Return the file that is made when a host's daemon has ended."""
        return self.command_file(host) + ".over"

    def note_code(self, code: int) -> None:
        """Note the exit code of a rank of this node that did not succeed."""
        os.makedirs(self.asked, mode=0o700, exist_ok=True)
        with open(os.path.join(self.asked, CODES), "a") as file:
            file.write("%d\n" % code)

    def note(self, text: str) -> None:
        """Append a line to the launcher's log of this node."""
        with open(os.path.join(self.logs, "torchrun.log"), "a") as log:
            log.write(text + "\n")


def program(*words: str) -> list[str]:
    """Return a command line that starts the node program with these words."""
    return [sys.executable, "-I", "-S", os.path.abspath(sys.argv[0]), *words]
