"""Keeps what happens in a run's folder and shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from orchestrator.core.run.output import NodeSample, Output
from orchestrator.errors import HostErrors, OrchError
from orchestrator.local.run_folder import RunFolder
from orchestrator.protocol.events import Event, Planned
from orchestrator.ui.display import Display
from orchestrator.ui.run import RunDisplay

Hearer = Callable[[Event | Output], None]


def nobody(heard: Event | Output) -> None:
    """Hear nothing."""


class Recording:
    """The record of one run, and the view of the attempt that goes on. ``heard`` is told everything, too."""

    def __init__(self, folder: RunFolder, workload: str, display: Display, heard: Hearer = nobody) -> None:
        self.folder = folder
        self.workload = workload
        self.display = display
        self.shown = RunDisplay(display)
        self.heard = heard
        self._view = ExitStack()

    def begun(self, attempt: int, nodes: tuple[str, ...]) -> None:
        """An attempt is shown from here on."""
        self._view.close()
        self._view.enter_context(self.shown.attempt(self.folder.path.name, self.workload, attempt, list(nodes)))

    def event(self, event: Event) -> None:
        """Keep it and show it; raises CannotRecord."""
        self.folder.record(event)
        if isinstance(event, Planned):
            self.begun(event.attempt, event.nodes)
        self.shown.event(event)
        self.heard(event)

    def output(self, output: Output) -> None:
        """Keep it and show it; raises CannotRecord."""
        self.folder.log(output)
        self.shown.output(output)
        self.heard(output)

    def sample(self, sample: NodeSample) -> None:
        """Show it."""
        self.shown.sample(sample)

    def ended(self) -> None:
        """The attempt's view goes."""
        self._view.close()

    def refused(self, errors: tuple[OrchError, ...]) -> None:
        """Show why an attempt could not start."""
        self.display.error(HostErrors(list(errors), len(errors)))


class Printing:
    """Shows output and keeps nothing."""

    def __init__(self, display: Display) -> None:
        self.shown = RunDisplay(display)

    def event(self, event: Event) -> None:
        """Pass it over."""

    def output(self, output: Output) -> None:
        """Show it."""
        self.shown.output(output)

    def sample(self, sample: NodeSample) -> None:
        """Pass it over."""

    def ended(self) -> None:
        """Show the last lines."""
        self.shown.end_of_output()

    def refused(self, errors: tuple[OrchError, ...]) -> None:
        """Whoever called tells."""
