"""The Python API: the verbs as methods that return values instead of printing. See docs/api.md.

Nothing is printed; ``progress`` receives the lines that a verb would show. Every failure is an ``OrchError``.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.findings import Finding
from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.core.inventory.target import Settings, Target
from orchestrator.core.launch.plan import LaunchPlan, RunSpec
from orchestrator.core.launch.variables import local_settings
from orchestrator.core.run.actions import Finish
from orchestrator.core.run.listing import ListedRun, whole_runs
from orchestrator.core.run.output import Output
from orchestrator.core.run.result import RunResult
from orchestrator.core.text.lines import LineAssembler
from orchestrator.errors import HostErrors, OrchError
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.delivery.data import send_data
from orchestrator.operations.delivery.environments import ensure
from orchestrator.operations.delivery.pushing import connected_with
from orchestrator.operations.delivery.syncing import SyncOptions, deliver, wanted_data
from orchestrator.operations.executing import CommandResult, execute
from orchestrator.operations.run.function import packed, values
from orchestrator.operations.run.members import ask_runs
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.previewing import preview
from orchestrator.operations.run.running import Live, attach_run, launch_run
from orchestrator.operations.run.source import project_of, resolve
from orchestrator.operations.survey import DoctorOptions, survey
from orchestrator.protocol.events import Event
from orchestrator.ui.quiet import Progress, QuietDisplay

# Most events and lines kept for an iteration over the run; the run's folder has all of them.
MOST_KEPT = 100_000


@dataclass(frozen=True)
class Line:
    """A line that a rank printed, or torchrun itself if ``rank`` is None. ``text`` has no newline."""

    node: str
    rank: int | None
    stream: str
    text: str


@dataclass(frozen=True)
class Examination:
    """The result of ``Cluster.doctor``. ``unreachable`` holds the error of each host that could not be checked."""

    findings: tuple[Finding, ...]
    unreachable: Mapping[str, OrchError]

    @property
    def ok(self) -> bool:
        """Whether a run could start: every host was checked, and no finding is a failure."""
        return not self.unreachable and all(each.severity != "fail" for each in self.findings)


class Run:
    """A run that this process sees to its end. Iterating yields events and lines as they arrive.

    As a context manager, it stops the run at the end of the block unless the run is over.
    """

    def __init__(self, live: Live, closing: ExitStack) -> None:
        self._live = live
        self._closing = closing
        self._items: deque[Event | Line] = deque(maxlen=MOST_KEPT)
        self._news = threading.Condition()
        self._assemblers: dict[tuple[str, int | None, str], LineAssembler] = {}
        self._done = threading.Event()
        self._last: Finish | None = None
        self._error: BaseException | None = None
        self._result: RunResult | None = None
        self._thread = threading.Thread(target=self._see, daemon=True, name=f"run-{live.run_id}")

    @property
    def run_id(self) -> str:
        """The run's id, as ``orch logs``, ``orch attach`` and ``orch stop`` take it."""
        return self._live.run_id

    @property
    def outputs(self) -> Path:
        """The run's folder. It holds logs, events, and each node's outputs in a folder named after the node."""
        return self._live.folder.path

    @property
    def over(self) -> bool:
        """Whether the run has ended or this process has left it."""
        return self._done.is_set()

    @property
    def diagnosis(self) -> Diagnosis | None:
        """The cause of the run's failure; None while the run goes on, and if it did not fail."""
        return self._last.found if self._last is not None else None

    @property
    def results(self) -> dict[int, Any]:
        """The value that each rank of a shipped function returned, by rank."""
        return values(self.outputs)

    @property
    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        """The objects of each node's ``metrics.jsonl``, in its working folder or ``$ORCH_OUTPUT_DIR``, by node."""
        found: dict[str, list[dict[str, Any]]] = {}
        for file in sorted(
            path for place in ("*", "*/orch-output") for path in self.outputs.glob(f"{place}/metrics.jsonl")
        ):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    found.setdefault(file.relative_to(self.outputs).parts[0], []).append(json.loads(line))
        return found

    def wait(self, timeout: float | None = None) -> RunResult:
        """Wait until the run has ended, and return its result.

        Raises TimeoutError after ``timeout`` seconds, HostErrors if the run could not start, and OrchError if this
        process could not see the run to its end.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"run {self.run_id} has not ended after {timeout:g} s")
        if self._error is not None:
            raise self._error
        assert self._last is not None and self._result is not None
        if self._last.refusals:
            raise HostErrors(list(self._last.refusals), self._live.nodes)
        return self._result

    def stop(self, grace: float | None = None) -> None:
        """Ask the run to end, with ``grace`` seconds for its ranks. Returns at once; see ``wait``."""
        self._live.engine.stop("stopped", self._live.grace.stop if grace is None else grace)

    def leave(self) -> None:
        """Let the run go on without this process. ``Cluster.attach`` takes it over again."""
        self._live.engine.leave()

    def __iter__(self) -> Iterator[Event | Line]:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._items or self.over)
                if not self._items:
                    return
                item = self._items.popleft()
            yield item

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.over:
            self.stop()
            self._done.wait()

    def start(self) -> Run:
        """Start the thread that sees the run to its end. ``Cluster`` calls this."""
        self._thread.start()
        return self

    def heard(self, item: Event | Output) -> None:
        """Keep an item from the engine for iteration."""
        with self._news:
            if isinstance(item, Event):
                self._items.append(item)
            else:
                self._items.extend(self._lines(item))
            self._news.notify_all()

    def _lines(self, output: Output) -> Iterator[Line]:
        key = (output.node, output.rank, output.name)
        whole = self._assemblers.setdefault(key, LineAssembler(b"")).feed(output.data)
        for text in whole.decode("utf-8", "replace").split("\n")[:-1]:
            yield Line(output.node, output.rank, output.stream, text)

    def _see(self) -> None:
        try:
            with self._closing:
                try:
                    self._last = self._live.engine.run()
                    self._result = self._live.folder.result()
                finally:
                    self._live.close()
        except BaseException as error:
            self._error = error
        with self._news:
            self._done.set()
            self._news.notify_all()


class Cluster:
    """The hosts of a hosts file (docs/inventory.md).

    As a context manager, it keeps an embedded cluster up during the block, and stops its runs at the end.
    """

    def __init__(self, target: Target, progress: Progress | None = None) -> None:
        self._target = target
        self._display = QuietDisplay(progress)
        self._open = ExitStack()
        self._runs: list[Run] = []

    @classmethod
    def from_file(
        cls,
        path: str | Path = "hosts.yaml",
        *,
        nodes: str | None = None,
        master: str | None = None,
        connect_timeout: float = 10.0,
        accept_new_host_keys: bool = False,
        fanout: int = 64,
        progress: Progress | None = None,
    ) -> Cluster:
        """Return the cluster of a hosts file; ``path`` may be all that ``--hosts`` takes.

        ``nodes`` chooses some of the hosts, as ``--nodes`` does, and ``master`` the one with node_rank 0, by name
        or address. ``connect_timeout`` is in seconds. ``progress`` is called with each line of progress.
        """
        settings = Settings(connect_timeout, accept_new_host_keys)
        target = Target(Path(path), nodes, settings, fanout, master=master)
        return cls(target if progress is None else replace(target, note=progress), progress)

    def __enter__(self) -> Cluster:
        self._open.enter_context(open_cluster(self._target))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for run in self._runs:
            run.__exit__(kind, error, traceback)
        self._open.close()

    def doctor(self, *, backend: str = "auto", port: int | None = None) -> Examination:
        """Check every host and every pair of hosts."""
        with open_cluster(self._target, spares_too=True, interpreters=True) as opened:
            examined, errors = survey(opened, DoctorOptions(backend, port), self._display)
        findings = tuple(check(examined)) if examined.hosts else ()
        return Examination(findings, {error.host or "?": error for error in errors})

    def sync(self, project: str | Path | None = None) -> str:
        """Bring code, environments and data up to date on every host, and return the id of the code's tree.

        Raises UsageError, SyncError, and HostErrors if hosts fail.
        """
        root = Path(project).resolve() if project is not None else project_of(Path.cwd()).resolve()
        with open_cluster(self._target, interpreters=True) as opened:
            tree, nodes = connected_with(opened, root)
            data = wanted_data(opened, self._target.hosts_file.parent, SyncOptions())
            deliver(opened, nodes, tree, self._display)
            ensure(opened, nodes, self._display)
            for source in data:
                send_data(opened, nodes, source, None, self._display)
        return tree.tree_id

    def exec(self, *argv: str) -> dict[str, CommandResult]:
        """Run a command on every host, and return the results by host. No shell expands the words.

        Raises HostErrors if a host gives no answer. A command that fails is a result, too.
        """
        with open_cluster(self._target) as opened:
            answers, errors = execute(opened, argv)
        if errors:
            raise HostErrors(errors, len(answers) + len(errors))
        return answers

    def plan(self, what: str, args: Sequence[str] = (), **options: Any) -> LaunchPlan:
        """Return the plan that ``run`` would carry out. No node is asked. ``options`` are those of ``run``."""
        return preview(self._target, self._asked(what, args, None, options), self._display, offline=True)

    def run(
        self,
        what: str | Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Run:
        """Prepare a run, start it and return. Raises OrchError if it cannot be prepared.

        ``what`` is the name of a bundled workload, the path of a script, ``-m module``, or a function, which is
        called with ``args`` and ``kwargs`` on every rank. The options ``nproc``, ``backend``, ``env``, ``port``,
        ``project``, ``runs_dir``, ``resume``, ``max_restarts``, ``node_timeout``, ``grace`` and ``collect_every``
        are those of ``orch run``, with times in seconds. ``limit`` stops the run after so many seconds;
        ``check=False`` is ``--no-doctor``, and ``yes=True`` is ``--yes``. Unlike ``orch run``, a program sends
        NCCL_* and the like of its own environment only with ``local_env=True``.
        """
        closing = ExitStack()
        try:
            folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="orch-")))
            asked = self._asked(what, args, kwargs, options, folder)
            opened = closing.enter_context(open_cluster(self._target, interpreters=True))
            return self._seen(lambda heard: launch_run(opened, asked, self._display, heard), closing)
        except BaseException:
            closing.close()
            raise

    def attach(
        self, run_id: str | None = None, *, runs_dir: str | Path = "runs", node_timeout: float = 30.0
    ) -> Run:
        """Take over a run, with ``run_id`` None the only active one. Raises OrchError."""
        closing = ExitStack()
        try:
            opened = closing.enter_context(open_cluster(self._target, spares_too=True))
            folder = Path(runs_dir)
            return self._seen(
                lambda heard: attach_run(opened, run_id, folder, node_timeout, self._display, heard=heard), closing
            )
        except BaseException:
            closing.close()
            raise

    def runs(self, everything: bool = False) -> list[ListedRun]:
        """Return the runs on the hosts, with ``everything`` also those that have ended. Raises HostErrors."""
        with open_cluster(self._target, spares_too=True) as opened:
            found, errors = ask_runs(opened, None, ended=everything)
            if errors:
                raise HostErrors(errors, len(opened.hosts))
        return list(whole_runs(run for _, runs in found for run in runs))

    def _seen(self, begin: Callable[[Callable[[Event | Output], None]], Live], closing: ExitStack) -> Run:
        runs: list[Run] = []
        live = begin(lambda item: runs[0].heard(item) if runs else None)
        runs.append(Run(live, closing))
        self._runs.append(runs[0])
        return runs[0].start()

    def _asked(
        self,
        what: str | Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        folder: Path | None = None,
    ) -> RunOptions:
        """Return the RunOptions that the command line would make of this request."""
        given = dict(options)
        project = given.pop("project", None)
        if callable(what):
            assert folder is not None, "only run() ships functions"
            source = packed(what, args, kwargs or {}, folder / "orch-function")
            words: tuple[str, ...] = ()
        else:
            module = what.startswith("-m ")
            name = what.removeprefix("-m ").strip()
            source = resolve(name, is_module=module, project=Path(project) if project else None)
            words = tuple(str(each) for each in args)
        of_spec = {key: given.pop(key) for key in ("nproc", "backend", "env", "port") if key in given}
        local = local_settings(os.environ).travel if given.pop("local_env", False) else {}
        spec = RunSpec(workload=source.workload, args=words, local=local, **of_spec)
        agree = (lambda question: True) if given.pop("yes", False) else None
        return RunOptions(spec, source, Path(given.pop("runs_dir", "runs")), agree=agree, **given)
