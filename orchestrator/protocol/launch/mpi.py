"""A run whose ranks mpirun starts."""

from __future__ import annotations

from ..message import Message, of
from ..shapes import many, text
from ..terms import ADDRESS, PATH, PORT

# First word of a command line that starts the node program itself, and the roles that it can take then.
NODE_PROGRAM = "orch-node"
LEAD, DAEMON = "mpi-lead", "mpi-daemon"
# Stands for the launch agent in mpirun's command line. The node writes the agent at the start.
AGENT = "{agent}"


class MpiFound(Message):
    """A node's mpirun. ``program``: its path. ``said``: the first lines that it prints for ``--version``."""

    program: str = of(PATH)
    said: str = of(text())


class MpiPart(Message):
    """A node's part in a run that mpirun starts.

    ``host``: the node's name in mpirun's list of hosts. ``hosts``: this list, the node with mpirun first.
    ``port``: port of the first host, which belongs to rank 0 later, where daemons ask for their command line.
    ``key``: secret of the attempt, by which the first node and the daemons know each other.
    ``argv``: command line of each rank of this node.
    """

    host: str = of(ADDRESS)
    hosts: tuple[str, ...] = of(many(ADDRESS, 10_000))
    port: int = of(PORT)
    key: str = of(text(256))
    argv: tuple[str, ...] = of(many(text(1 << 20), 65536))
