"""Whether the outputs of a run have arrived: asked before anything is done that may remove its nodes."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.protocol import events
from orchestrator.protocol.events import Event

NEVER = "was not asked for its outputs after its end"


def missing(happened: Iterable[Event]) -> dict[str, str]:
    """Return the nodes of the newest attempt that may still hold outputs, each with the reason.

    Only what was fetched after a node's own end counts: a periodic collection misses what came later. Outputs over
    ``outputs.max_size`` are missing, too; files that ``outputs:`` excludes are not.
    """
    found: dict[str, str] = {}
    for event in happened:
        match event:
            case events.Planned():
                found = dict.fromkeys(event.nodes, NEVER)
            case events.Collected(node=str(node)):
                if event.left:
                    found[node] = f"holds {event.left[0]}"
                else:
                    found.pop(node, None)
            case events.CollectFailed(node=str(node)):
                found[node] = f"could not be read: {event.reason}"
            case events.NodeLost(node=str(node)):
                found[node] = "was lost"
            case events.TorchrunStarted(node=str(node)) | events.Finished(node=str(node)):
                found[node] = NEVER
            case events.Orphaned(node=str(node)) | events.FailedToStart(node=str(node)):
                found[node] = NEVER
    return found
