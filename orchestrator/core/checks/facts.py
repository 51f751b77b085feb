"""What is known of a node before a run, as the node program's ``facts`` verb answers it."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.protocol import facts
from orchestrator.protocol.facts import Interpreter, Parts, Running


@dataclass(frozen=True)
class Address:
    """An address of a node's interface that is up."""

    interface: str
    address: str
    prefix: int


@dataclass(frozen=True)
class Facts:
    """One node. ``trees``: which of those asked for are there; ``free_port``: asked of the master only.

    ``leftovers`` are the runs that have processes there but no supervisor any more. ``clock_offset``: its clock
    minus this machine's, in seconds. ``noise``: what its login shell printed.
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

    @classmethod
    def from_answer(cls, node: str, answer: facts.NodeFacts, clock_offset: float = 0.0, noise: str = "") -> Facts:
        """Facts from what the node answered."""
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
        )

    def expand(self, path: str) -> str:
        """A path of this node with its leading ``~`` replaced."""
        if path == "~":
            return self.home
        return f"{self.home}/{path[2:]}" if path.startswith("~/") else path


def _plain(address: str | None) -> str | None:
    """An IPv4 address that sshd writes in its IPv6 form, as IPv4."""
    return address.removeprefix("::ffff:") if address and "." in address else address
