"""What is worth telling someone who does not watch a run: that it ended, failed, was stopped, or began again."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.text.duration import duration
from orchestrator.core.text.secret import masked
from orchestrator.errors import Interrupted
from orchestrator.protocol.events import Diagnosed, Event, Hang, Planned, RunFinished, WorkerFound


@dataclass(frozen=True)
class Notice:
    """A notice. ``event``: ``ended``, ``failed``, ``stopped``, ``restarted`` or ``hung``.

    ``text``: all of it, in words.
    """

    event: str
    run_id: str
    workload: str
    text: str
    name: str | None = None
    exit_code: int | None = None
    cause: str | None = None
    remedy: str | None = None

    @property
    def verb(self) -> str:
        """What the run did, after "the run"."""
        return {"stopped": "was stopped", "restarted": "began again"}.get(self.event, self.event)

    def as_variables(self) -> dict[str, str]:
        """Return the notice as variables of a command."""
        fields = {**asdict(self), "exit_code": "" if self.exit_code is None else str(self.exit_code)}
        return {f"ORCH_{name.upper()}": value or "" for name, value in fields.items()}

    def as_json(self) -> dict[str, object]:
        """Return the notice as JSON, with the text under the names that chat services read it from."""
        # "text" is Slack's and Mattermost's, "content" Discord's.
        return {**asdict(self), "content": self.text}


class Notices:
    """Turns the events of one run into notices."""

    def __init__(self, run_id: str, workload: str, name: str | None = None) -> None:
        self.run_id = run_id
        self.workload = workload
        self.name = name
        self._began: float | None = None
        self._nodes: tuple[str, ...] = ()
        self._found: Diagnosed | None = None
        self._restarts = 0

    def of(self, event: Event) -> Notice | None:
        """Return the notice that an event gives rise to, if any."""
        match event:
            case Planned():
                self._began = event.time if self._began is None else self._began
                self._nodes = event.nodes
                return self._restarted(event.attempt) if event.attempt > 1 else None
            case WorkerFound() if event.restart > self._restarts:
                self._restarts = event.restart
                return self._notice("restarted", f"torchrun restarted the ranks (restart {event.restart})")
            case Hang() if event.everyone:
                return self._notice("hung", f"hangs: {event.what} → {event.remedy}")
            case Diagnosed():
                self._found = event
            case RunFinished():
                return self._finished(event)
        return None

    def not_started(self, why: str) -> Notice:
        """Return the notice of a run that could not start."""
        return self._notice("failed", f"did not start: {why}")

    def _restarted(self, attempt: int) -> Notice:
        why = f", because {self._found.what}" if self._found is not None else ""
        self._found = None
        return self._notice("restarted", f"begins again as attempt {attempt} on {folded(self._nodes)}{why}")

    def _finished(self, event: RunFinished) -> Notice:
        took = "" if self._began is None else f" after {duration(event.time - self._began)}"
        if event.exit_code == 0:
            return self._notice("ended", f"ended well{took}", exit_code=0)
        if event.exit_code == Interrupted.exit_code:
            return self._notice("stopped", f"was stopped{took}", exit_code=event.exit_code)
        found = self._found
        if found is None:
            return self._notice("failed", f"failed{took}", exit_code=event.exit_code)
        what = f"failed{took}: {found.what}: {found.cause} → {found.remedy}"
        notice = self._notice("failed", what, exit_code=event.exit_code)
        return Notice(**{**asdict(notice), "cause": masked(found.cause), "remedy": found.remedy})

    def _notice(self, event: str, what: str, exit_code: int | None = None) -> Notice:
        called = f"{self.workload} ({named})" if (named := self.name or self.run_id) else self.workload
        return Notice(event, self.run_id, self.workload, masked(f"orch: {called} {what}"), self.name, exit_code)
