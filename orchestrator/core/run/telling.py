"""Events in words: those that a run in progress shows, and all of them as the timeline of a recorded run."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.run.result import signal_name
from orchestrator.core.text.counted import counted
from orchestrator.errors import EXIT_CODES
from orchestrator.protocol import events
from orchestrator.protocol.events import Event


def _grace_text(stop: events.StopRequested) -> str:
    """Return how long a stop may take, and how its user can shorten it."""
    again = "; Ctrl-C again ends them now" if stop.by_user else ""
    return f" (ranks have {stop.grace:g} s to end{again})" if stop.grace else ""


def told(event: Event) -> str | None:
    """Return the line that a run in progress shows for an event; None if only ``-v`` shows the event."""
    match event:
        case events.StopRequested():
            return f"stopping: {event.reason}" + _grace_text(event)
        case events.StopFailed():
            return f"{event.node}: the request to stop failed: {event.reason}"
        case events.Reconnecting():
            return f"{event.node}: connection lost ({event.reason}); trying again"
        case events.Reconnected():
            return f"{event.node}: connected again"
        case events.NodeLost():
            return f"{event.node}: lost, {event.reason}"
        case events.Orphaned():
            what = "the machine was rebooted" if event.rebooted else "the run's supervisor was killed"
            return f"{event.node}: {what}"
        case events.Swept():
            return f"{event.node}: ended {counted(event.processes, 'leftover process')}"
        case events.Fenced():
            return f"{event.node}: is back; this run has no processes left there"
        case events.RankFailed():
            return f"{event.node}: rank {event.rank} failed"
        case events.Hang():
            where = f" ({event.file} in the run's folder has all stacks)" if event.file else ""
            return f"{event.what} → {event.remedy}{where}"
        case events.Straggler():
            return f"{event.what} → {event.remedy}"
    return None


def timeline(recorded: Sequence[Event]) -> list[tuple[float, str]]:
    """Return when something happened in a run, in seconds since the epoch, and what, in words.

    Events that all nodes have, such as the start of torchrun, are one entry, at the time of the last.
    """
    found: list[tuple[float, str]] = []
    alike: dict[str, int] = {}
    nodes: dict[str, set[str]] = {}
    order: dict[str, int] = {}
    for event in recorded:
        if isinstance(event, events.Planned):
            alike, nodes, order = {}, {}, {name: at for at, name in enumerate(event.nodes)}
        shared = _shared(event)
        if shared is None:
            line = told(event) or _at_length(event)
            if line is not None:
                found.append((event.time, line))
            continue
        nodes.setdefault(shared, set()).add(event.node or "?")
        names = sorted(nodes[shared], key=lambda name: order.get(name, len(order)))
        line = f"{shared} on {folded(names)}"
        if shared in alike:
            found[alike[shared]] = (event.time, line)
        else:
            alike[shared] = len(found)
            found.append((event.time, line))
    return found


def _shared(event: Event) -> str | None:
    """Return the words for an event that nodes have in common."""
    match event:
        case events.TorchrunStarted():
            return "the launcher started"
        case events.FailedToStart():
            return f"the launcher did not start ({event.error})"
        case events.Finished() if event.stopped:
            return "stopped"
        case events.Finished() if event.signal is not None:
            return f"ended by {signal_name(event.signal)}"
        case events.Finished():
            return f"ended with exit code {event.exit_code}"
    return None


def _at_length(event: Event) -> str | None:
    """Return the words for an event that a run in progress does not show."""
    match event:
        case events.Planned():
            return f"attempt {event.attempt} on {folded(event.nodes)}"
        case events.Diagnosed():
            return f"{event.what}: {event.cause}"
        case events.Still() if event.ranks:
            return f"{event.node}: {counted(len(event.ranks), 'rank')} made no progress for {event.after:g} s"
        case events.Collected():
            return f"{event.node}: {counted(event.files, 'file')} fetched ({event.bytes:,} bytes)"
        case events.CollectFailed():
            return f"{event.node}: outputs could not be fetched: {event.reason}"
        case events.Carried():
            return f"{event.node}: received {counted(len(event.files), 'file')} of other nodes"
        case events.Detached():
            return "orch left the run, which went on"
        case events.Attached():
            return "orch attached to the run"
        case events.RunFinished():
            return f"the run is over: {EXIT_CODES.get(event.exit_code, f'exit code {event.exit_code}')}"
    return None
