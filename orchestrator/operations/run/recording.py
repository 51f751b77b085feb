"""The recorders of the engine: one records a run in its folder and shows it, one only shows output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from orchestrator.core.run.output import NodeSample, Output
from orchestrator.core.tracing.stragglers import Stragglers
from orchestrator.errors import HostErrors, OrchError
from orchestrator.local.history.samples import Samples
from orchestrator.local.run_folder import RunFolder
from orchestrator.protocol.events import Event, Planned
from orchestrator.ui.display import Display
from orchestrator.ui.run import RunDisplay

Hearer = Callable[[Event | Output], None]


def ignore(heard: Event | Output) -> None:
    """Ignore an event or a piece of output."""


class Recording:
    """The record of one run, and the view of its current attempt. ``heard`` gets every event and output, too.

    When the reader of the output has gone, ``unread`` becomes true, and ``left`` is called to leave the run.
    """

    def __init__(self, folder: RunFolder, workload: str, display: Display, heard: Hearer = ignore) -> None:
        self.folder = folder
        self.workload = workload
        self.display = display
        self.shown = RunDisplay(display)
        self.heard = heard
        self.unread = False
        self.left: Callable[[], None] = lambda: None
        self.stragglers = Stragglers(())
        self.samples = Samples(folder.path)
        self._view = ExitStack()

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """Note, instead of raising BrokenPipeError, that nobody reads what the body shows any more."""
        try:
            yield
        except BrokenPipeError:
            if not self.unread:
                self.unread = True
                self.left()

    def begun(self, attempt: int, nodes: tuple[str, ...]) -> None:
        """Show an attempt from now on."""
        self.stragglers = Stragglers(nodes)
        self._view.close()
        self._view.enter_context(self.shown.attempt(self.folder.path.name, self.workload, attempt, list(nodes)))

    def event(self, event: Event) -> None:
        """Record and show an event. Raises CannotRecord."""
        self.folder.record(event)
        with self._showing():
            if isinstance(event, Planned):
                self.begun(event.attempt, event.nodes)
            self.shown.event(event)
        self.heard(event)

    def output(self, output: Output) -> None:
        """Record and show a piece of output. Raises CannotRecord."""
        self.folder.log(output)
        with self._showing():
            self.shown.output(output)
        self.heard(output)

    def sample(self, sample: NodeSample) -> None:
        """Show a node's load, and record who holds the others up. Raises CannotRecord."""
        with self._showing():
            self.shown.sample(sample)
        if self.folder.writing:
            self.samples.take(sample)
        for straggler in self.stragglers.after(sample):
            self.event(straggler.replace(time=time.time()))

    def ended(self) -> None:
        """End the view of the attempt."""
        with self._showing():
            self._view.close()

    def refused(self, errors: tuple[OrchError, ...]) -> None:
        """Show why an attempt could not start."""
        with self._showing():
            self.display.error(HostErrors(list(errors), len(errors)))


class Printing:
    """A recorder that shows output and records nothing."""

    def __init__(self, display: Display) -> None:
        self.shown = RunDisplay(display)

    def event(self, event: Event) -> None:
        """Ignore an event."""

    def output(self, output: Output) -> None:
        """Show a piece of output."""
        self.shown.output(output)

    def sample(self, sample: NodeSample) -> None:
        """Ignore a node's load."""

    def ended(self) -> None:
        """Show the incomplete last lines."""
        self.shown.end_of_output()

    def refused(self, errors: tuple[OrchError, ...]) -> None:
        """Ignore the errors: the caller raises them."""
