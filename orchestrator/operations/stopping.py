"""Ends runs and their leftovers on every host."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import OrchError, PreflightError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.remote.ssh.connection import Connection


@dataclass(frozen=True)
class HostStopped:
    """The result of a stop on one host.

    ``runs`` holds the ids of the runs that were ended, ``leftovers`` is the number of leftover processes that were
    ended, and ``alive`` describes the processes that could not be ended. ``held_by`` names the other user who
    holds the host's lock, if any.
    """

    host: str
    runs: tuple[str, ...]
    leftovers: int
    alive: tuple[str, ...] = ()
    held_by: str | None = None

    def errors(self, run_id: str | None) -> list[OrchError]:
        """Return an error for what could not be ended, after a stop of ``run_id`` (None: of every run)."""
        found: list[OrchError] = []
        if self.alive:
            what = f"could not end {', '.join(self.alive)}"
            found.append(
                PreflightError(what, remedy="on that host, end them as their user or as root", host=self.host)
            )
        if self.held_by and run_id is None:
            what = f"taken by {self.held_by}; a host takes one run at a time"
            found.append(
                PreflightError(
                    what, remedy="have that user, or root there, end the run: orch stop --all", host=self.host
                )
            )
        return found


def stop_on_all(opened: OpenCluster, run_id: str | None, grace: float) -> list[HostStopped | OrchError]:
    """End ``run_id``, or every run if it is None, on each host. Ranks have ``grace`` seconds.

    A failure on one host does not keep the others from finishing. The results are in the order of the hosts.
    """
    if opened.inventory.scheduler is not None:
        from orchestrator.operations.slurm.stopping import stop_jobs

        return stop_jobs(opened, run_id, grace)

    def stop_on(link: Connection) -> HostStopped:
        link.open()
        node = Node(link)
        if node.idle():
            return HostStopped(node.name, (), 0)
        answer = node.stop(run_id, grace)
        refused = answer.refused
        if refused is not None and not refused.foreign:
            raise PreflightError(refused.error or "the supervisor does not answer", host=node.name)
        held_by = refused.owner if refused is not None else None
        return HostStopped(node.name, answer.ended, answer.killed, answer.alive, held_by)

    return on_all(opened.links, stop_on, limit=opened.fanout)
