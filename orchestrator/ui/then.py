"""Shows the command that follows a run."""

from __future__ import annotations

import json
import time

from orchestrator.core.text.escapes import visible
from orchestrator.core.text.secret import masked
from orchestrator.errors import OrchError
from orchestrator.ui.display import Display


class ThenDisplay:
    """The display of one command of ``--then``. With ``--json`` how it ended is a line on stdout."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self._began = 0.0

    def begins(self, line: str) -> None:
        """Show the command before it runs."""
        self._began = time.monotonic()
        self.display.note(f"then: {masked(visible(line))}")

    def ended(self, status: int, failed: OrchError | None) -> None:
        """Show how the command ended."""
        self._event({"exit_code": status})
        self.display.note(f"then: exit code {status}  {time.monotonic() - self._began:.1f} s")
        if failed is not None:
            self.display.error(failed)

    def not_run(self, reason: str) -> None:
        """Show that the command is not run."""
        self._event({"exit_code": None, "reason": masked(reason)})
        self.display.note(f"then: not run: {masked(reason)}")

    def refused(self, error: OrchError) -> None:
        """Show that the command is not run, as an error."""
        self._event({"exit_code": None, "reason": masked(error.message)})
        self.display.error(error)

    def _event(self, fields: dict[str, object]) -> None:
        if self.display.as_json:
            self.display.write_bytes(json.dumps({"event": "then", **fields}).encode() + b"\n")
