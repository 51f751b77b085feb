"""The facts about a node before a run, from the answer to the node program's verb ``facts``."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.protocol import facts
from orchestrator.protocol.container.image import EngineFacts
from orchestrator.protocol.facts import Interpreter, Parts, Running


@dataclass(frozen=True)
class Address:
    """An address on an interface that is up, or the network that a route leads to."""

    interface: str
    address: str
    prefix: int


@dataclass(frozen=True)
class Facts:
    """Facts about one node. ``trees`` and ``data`` tell which of the requested trees and data the node has.

    ``free_port`` is requested from the master only. ``leftovers`` are the runs that have processes on the node
    but no supervisor. ``clock_offset`` is the node's clock minus this machine's, in seconds. ``noise`` is the
    output of the login shell. ``engine`` are the facts of the container engine, for a host with a container.
    """

    node: str
    hostname: str
    home: str
    user: str
    system: str
    path: str
    python: Interpreter
    gpus: int
    addresses: tuple[Address, ...]
    routes: tuple[Address, ...]
    ssh_address: str | None
    free_port: int | None
    trees: tuple[bool, ...]
    running: Running | None
    leftovers: tuple[str, ...] = ()
    parts: Parts = field(default_factory=Parts)
    clock_offset: float = 0.0
    noise: str = ""
    data: tuple[bool, ...] = ()
    engine: EngineFacts | None = None

    @classmethod
    def from_answer(cls, node: str, answer: facts.NodeFacts, clock_offset: float = 0.0, noise: str = "") -> Facts:
        """Return the facts in the node's answer."""
        return cls(
            node=node,
            hostname=answer.hostname,
            home=answer.home,
            user=answer.user,
            system=answer.system,
            path=answer.path,
            python=answer.python,
            gpus=answer.gpus,
            addresses=tuple(Address(*entry) for entry in answer.addresses),
            routes=tuple(Address(*entry) for entry in answer.routes),
            ssh_address=_plain(answer.ssh_address),
            free_port=answer.free_port,
            trees=answer.trees,
            running=answer.running,
            leftovers=answer.leftovers,
            parts=answer.parts,
            clock_offset=clock_offset,
            noise=noise,
            data=answer.data,
        )

    def expand(self, path: str) -> str:
        """Return a path on this node with a leading ``~`` replaced by the home folder."""
        if path == "~":
            return self.home
        return f"{self.home}/{path[2:]}" if path.startswith("~/") else path


def _plain(address: str | None) -> str | None:
    """Return an address without the IPv6 prefix that sshd puts before IPv4 addresses."""
    return address.removeprefix("::ffff:") if address and "." in address else address
