"""Decide with the user what becomes of hosts that fail their trial. Enter alone never leaves a host out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.errors import AuthenticationFailed, NameNotResolved, OrchError
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from orchestrator.ui.inventory.trials import show_failed

ONE = {
    "again": "try it again",
    "change": "type another address for it",
    "keep": "write it to the file as it is, unchecked",
    "drop": "leave it out of the file",
}
SEVERAL = {
    "again": "try those hosts again",
    "each": "decide host by host",
    "keep": "write them to the file as they are, unchecked",
    "drop": "leave them out of the file",
}
SEVERAL_FAILED, ONE_FAILED = "what now with these {} hosts?", "{}: what now?"


class Failures:
    """Decides what becomes of hosts that failed; ``failing`` decides for all of them unless it is ``ask``."""

    def __init__(self, failing: str, questions: Questions, display: Display) -> None:
        self.failing = failing
        self.questions = questions
        self.display = display
        self._before: set[tuple[str, type[OrchError]]] = set()

    def decided(self, failed: Mapping[str, OrchError]) -> dict[str, str]:
        """Show the errors, and return for each host one of the answers in ``ONE``."""
        show_failed(self.display, failed)
        failing, usual = self.failing, self._usual(failed)
        if failing == "ask" and any(isinstance(error, AuthenticationFailed) for error in failed.values()):
            self.display.note("where a password is all there is: keep the hosts, and run orch keys afterwards")
        if failing == "ask" and len(failed) > 1:
            failing = self.questions.choose(SEVERAL_FAILED.format(len(failed)), SEVERAL, _safest(usual.values()))
        if failing in ("ask", "each"):
            return {name: self.questions.choose(ONE_FAILED.format(name), ONE, usual[name]) for name in failed}
        return dict.fromkeys(failed, failing)

    def _usual(self, failed: Mapping[str, OrchError]) -> dict[str, str]:
        """Return the default for each host: again at first, keep once it has failed in the same way."""
        found = {}
        for name, error in failed.items():
            seen = (name, type(error))
            known = isinstance(error, AuthenticationFailed) or seen in self._before
            found[name] = "keep" if known else "change" if isinstance(error, NameNotResolved) else "again"
            self._before.add(seen)
        return found


def _safest(usual: Iterable[str]) -> str:
    """Return the default for several hosts: another trial while it may change anything."""
    return "keep" if set(usual) == {"keep"} else "again"
