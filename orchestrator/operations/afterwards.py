"""The command of ``--then``: run on the control machine when a run has ended and its outputs are here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.core.run.fetched import missing
from orchestrator.core.text.counted import counted
from orchestrator.errors import OrchError, ThenFailed, UsageError
from orchestrator.local.shell import run_line
from orchestrator.operations.run.running import Live
from orchestrator.ui.display import Display
from orchestrator.ui.then import ThenDisplay


class Afterwards:
    """A shell line that follows a run, or None. It may remove the nodes, so it never runs while they hold outputs.

    Raises UsageError for a line with ``detach``.
    """

    def __init__(self, line: str | None, display: Display, *, detach: bool = False) -> None:
        if line is not None and detach:
            raise UsageError(
                "--detach and --then exclude each other: no control process is left to run the command",
                remedy="leave --detach out and start orch in tmux, or pass --then to orch attach",
            )
        if line is not None and (not line.strip() or "\0" in line):
            raise UsageError(f"--then {line!r}: expected a command", remedy="such as --then 'terraform destroy'")
        self.line = line
        self.display = display
        self.shown = ThenDisplay(display)

    @contextmanager
    def expected(self) -> Iterator[None]:
        """If the body, which is the run, raises an error, say that the command is not run."""
        try:
            yield
        except OrchError:
            if self.line is not None:
                self.shown.not_run("the run was not seen to its end")
            raise

    def run(self, live: Live, code: int) -> int:
        """Run the command unless its conditions are not met. Return orch's exit code; ``code``: the run's own."""
        if self.line is None:
            return code
        again = f"orch attach {live.run_id} --then {shlex.quote(self.line)}"
        if live.engine.last is None or live.engine.last.exit_code is None:
            self.shown.not_run(f"the run goes on → {again}")
            return code
        if lacking := missing(live.folder.events):
            node, reason = next(iter(lacking.items()))
            more = f", and {counted(len(lacking) - 1, 'more host')}" if len(lacking) > 1 else ""
            error = ThenFailed(
                f"--then: not run, because outputs are missing here: {node} {reason}{more}",
                remedy=f"{again} fetches them first; if you can do without them, run the command by hand",
            )
            self.shown.refused(error)
            return code or error.exit_code
        return self._run(self.line, live, code)

    def _run(self, line: str, live: Live, code: int) -> int:
        folder = live.folder.path.resolve()
        about = {"ORCH_RUN_ID": live.run_id, "ORCH_EXIT_CODE": str(code), "ORCH_RUN_DIR": str(folder)}
        self.shown.begins(line)
        status = run_line(line, about, output=2 if self.display.as_json else 1)
        failed = None
        if status:
            remedy = "the run's outputs are here; run the command again by hand"
            failed = ThenFailed(f"--then: the command ended with exit code {status}", remedy=remedy)
        self.shown.ended(status, failed)
        return code or (failed.exit_code if failed else 0)
