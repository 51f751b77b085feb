"""The supervisor: starts one torchrun on one node, records events, ends torchrun, and leaves no process behind.

The supervisor has its own session, so it survives the connection that started it. It writes all events to
``events.jsonl`` in the attempt's folder, where ``follow`` reads them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback

from ...protocol import VERSION
from ...protocol.events import FailedToStart, Finished, Stopping, TorchrunStarted
from ...protocol.launch.mpi import NODE_PROGRAM
from ...protocol.run import AskStop, Holder
from ..container import removal
from ..host import bounded, door, paths, processes
from ..modules import python_path
from ..mpi import part
from ..probe import machine
from ..store import prune
from ..tracing.gpus import Gpus
from ..tracing.pace import Pace
from ..tracing.stillness import Stillness
from .dead_man_switch import DeadManSwitch
from .journal import Journal
from .presence import Presence
from .sample import Sampler
from .workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from ...protocol.run import Question, Start

# Intervals between two looks, in seconds: until all workers have been seen, and from then on.
DISCOVERY_INTERVAL = 0.05
IDLE_INTERVAL = 0.25
# How long processes that outlive torchrun may take to end after SIGTERM before they are killed, in seconds.
SURVIVOR_GRACE = 2.0
# A process that outlives SIGKILL by so many seconds cannot be ended: it belongs to another user, or sleeps in the
# kernel.
UNENDED_AFTER = 3.0
# How long an engine may take to report that the processes of its container have ended, in seconds; and while a run
# is stopped.
REPORT_TIME, REPORT_TIME_STOPPED = 20.0, 2.0
UNREPORTED = "orch: torchrun has ended in its container, but %s does not report how"
# How long a stop waits for torchrun to report a worker that is already dead, in seconds.
NOTICE_TIME = 1.0


def main(request: Start, folder: str, work: str, lock_fd: int) -> NoReturn:
    """Supervise until no process of the run is left, then exit."""
    code = 1
    try:
        Supervisor(request, folder, work, socket.socket(fileno=lock_fd)).supervise()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


class Supervisor:
    """Supervisor of one attempt on this node; ``supervise()`` covers the attempt from start to end."""

    def __init__(self, request: Start, folder: str, work: str, listener: socket.socket) -> None:
        self.request = request
        self.folder = folder
        self.work = work
        self.door = door.Door(listener)
        self.logs = os.path.join(folder, "logs")
        self.journal = Journal(folder)
        self.workers = Workers(request, folder, work, self.journal.record)
        self.pace = Pace(self.workers)
        self.gpus = Gpus()
        self.sampler = Sampler(folder, self.pace, self.gpus)
        after = request.still_after
        self.stillness = Stillness(after, self.workers, self.gpus, self.journal.record) if after else None
        self.dead_man_switch = DeadManSwitch(folder, request.on_disconnect, request.cut_off)
        # The lock's door cannot be reached from the machine that asks about a batch job.
        self.presence = Presence(folder) if paths.is_shared() else None
        self.sizes: dict[str, int] = {}
        self.log_limit = request.log_limit
        self.started_at = time.time()
        self.oom_kills = oom_kills()
        self.stopped_by: str | None = None
        self.term_at: float | None = None
        self.kill_at: float | None = None
        # When SIGKILL was first sent, by the monotonic clock.
        self.killed_at: float | None = None
        self.waiting_for_stop: list[socket.socket] = []
        # When torchrun was first seen to have ended in its container, by the monotonic clock.
        self.unreported_since: float | None = None

    def supervise(self) -> None:
        """Start torchrun, serve the lock's door, and return when every process that can be ended has ended."""
        processes.become_subreaper()
        self.leave_session_scope()
        wake = self.wake_on_child()
        try:
            torchrun = self.start_torchrun()
        except OSError as error:
            removal.forget(self.folder)
            self.journal.record(FailedToStart(time=time.time(), error=str(error)))
            self.finish(127, 0, [])
            return
        # In a container and below mpirun, discovery reads the variables of every process.
        scattered = self.request.container is not None or self.request.mpi is not None
        often = IDLE_INTERVAL if scattered else DISCOVERY_INTERVAL
        while torchrun.poll() is None and not self.outlived_sigkill():
            self.wait(wake, IDLE_INTERVAL if self.workers.complete else often)
            try:
                self.look(torchrun)
            except OSError:
                # For example, a log was deleted. The record is incomplete then, but the run goes on.
                traceback.print_exc()
            self.end_if_due(torchrun)
        self.workers.find_logs()
        if torchrun.returncode and self.stopped_by is None:
            self.workers.find_summary()
        self.gpus.close()
        killed, alive = self.clear(wake)
        if self.request.container is not None:
            kept = removal.remove(self.folder)
            # Now the engine has no reason to go on: what it left is what it could not end.
            more, alive = self.clear(wake, even_engine=True)
            killed, alive = killed + more, [*alive, *([kept] if kept is not None else [])]
        code: int | None = torchrun.returncode
        if code == 0 and self.request.mpi is not None:
            code = part.first_code(self.folder)
        self.finish(-signal.SIGKILL if code is None else code, killed, alive)

    def leave_session_scope(self) -> None:
        """Leave the session's scope where systemd would end its processes at logout.

        A batch job stays where its scheduler finds all of its processes.
        """
        if self.presence is not None:
            return
        known = machine.logout()
        if known.kills and known.moves:
            try:
                machine.leave_session("%s-%d" % (self.request.run_id, self.request.attempt))
            except bounded.NoAnswer as error:
                sys.stderr.write("cannot leave the session's scope: %s\n" % error)
                sys.stderr.flush()

    def look(self, torchrun: subprocess.Popen[bytes]) -> None:
        """Look for new workers and failures, sample the load, and stop the run if it is asked for by file, or the
        dead man's switch fires."""
        if self.presence is not None:
            self.presence.beat()
            grace = self.presence.asked_to_stop()
            if grace is not None:
                self.stop("stop", grace)
        if self.request.min_nodes or not self.workers.complete:
            self.workers.find(torchrun.pid)
        if self.stopped_by is None or self.term_at is not None:
            self.workers.find_failure()
        if self.workers.complete and self.stopped_by is None:
            self.pace.tick()
        if self.sampler.tick():
            self.note_sizes()
        if self.stillness is not None and self.stopped_by is None and self.workers.complete:
            self.stillness.tick()
        self.end_silent_engine(torchrun)
        reason = self.dead_man_switch.reason_to_end() if self.stopped_by is None else None
        if reason is not None:
            self.stop(reason, self.request.grace)

    def end_silent_engine(self, child: subprocess.Popen[bytes]) -> None:
        """End the engine's process if torchrun has ended in its container, and the engine does not report that.

        podman waits for ever if the process that monitors the container was killed.
        """
        inner = self.workers.torchrun
        if self.request.container is None or inner is None or processes.alive(inner):
            return
        now = time.monotonic()
        self.unreported_since = self.unreported_since or now
        if now > self.unreported_since + (REPORT_TIME if self.stopped_by is None else REPORT_TIME_STOPPED):
            with open(os.path.join(self.logs, "torchrun.log"), "a") as log:
                log.write("%s\n" % UNREPORTED % self.request.argv[0])
            processes.send(signal.SIGKILL, [child.pid])

    def finish(self, code: int, killed: int, alive: Sequence[str]) -> None:
        """Record the end of the run, answer waiting stop requests, and free the host.

        ``code``: exit code of torchrun, negative for a signal. ``killed``: how many other processes were killed.
        ``alive``: descriptions of the processes that could not be ended.
        """
        self.journal.record(
            Finished(
                time=time.time(),
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                stopped=self.stopped_by is not None,
                killed=killed,
                alive=tuple(alive),
                oom_kills=oom_kills() - self.oom_kills,
            )
        )
        self.journal.close()
        for asker in self.waiting_for_stop:
            door.reply(asker, Holder(run_id=self.request.run_id, gone=True, alive=tuple(alive)))
        # Closing the door frees the host.
        self.door.close()
        with contextlib.suppress(OSError):
            prune.forget_old(self.request.workdir)

    def note_sizes(self) -> None:
        """Note the current length of each log, and cut each log to its limit.

        Lines carry no time, so ``orch logs --since`` finds its place by these notes.
        """
        sizes = self.workers.sizes()
        if self.log_limit and any(size > self.log_limit for size in sizes.values()):
            try:
                self.workers.cut(self.log_limit)
            except OSError as error:
                self.log_limit = None
                sys.stderr.write("this disk cannot cut logs, so they grow without a limit: %s\n" % error)
                sys.stderr.flush()
        if sizes != self.sizes:
            self.sizes = sizes
            with contextlib.suppress(OSError), open(os.path.join(self.folder, "sizes.jsonl"), "a") as file:
                file.write(json.dumps({"time": time.time(), "sizes": sizes}) + "\n")

    def wake_on_child(self) -> int:
        """Set the signal handlers; return a descriptor that is readable when a child ends or SIGTERM arrives."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self.stop("SIGTERM", self.request.grace))
        signal.set_wakeup_fd(write_end)
        return read_end

    def start_torchrun(self) -> subprocess.Popen[bytes]:
        """Start torchrun in its own session; the kernel sends it SIGTERM if the supervisor dies.

        Raises OSError if torchrun cannot be started.
        """
        environ = dict(os.environ)
        environ.update(self.request.env)
        environ.update(part.variables(self.request, self.folder, self.work))
        if self.request.container is None:
            environ.update(python_path(environ))
        argv = list(self.request.argv)
        if argv[0] == NODE_PROGRAM:
            argv = part.program(*argv[1:])
        me = os.getpid()
        with open(os.path.join(self.logs, "torchrun.log"), "ab") as log:
            torchrun = subprocess.Popen(
                argv,
                cwd=os.path.join(self.work, self.request.cwd),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: processes.die_with_parent(me),
            )
        self.journal.record(TorchrunStarted(time=time.time(), pid=torchrun.pid, version=VERSION))
        return torchrun

    def wait(self, wake: int, seconds: float) -> None:
        """Wait up to ``seconds`` until a child ends, a question arrives or a signal is due; answer questions."""
        for due in (self.term_at, self.kill_at):
            if due is not None:
                seconds = min(seconds, max(0.0, due - time.monotonic()))
        watched: list[int | socket.socket] = [wake, *self.door.sockets()]
        ready, _, _ = select.select(watched, [], [], seconds)
        if wake in ready:
            os.read(wake, 4096)
        for asker, question in self.door.questions(ready):
            self.answer(asker, question)

    def answer(self, asker: socket.socket, question: Question) -> None:
        """Answer one question; a stop request is answered when the run has ended."""
        if not isinstance(question, AskStop):
            door.reply(asker, self.status())
        elif question.run_id not in (None, self.request.run_id):
            door.reply(asker, Holder(run_id=self.request.run_id, other=True))
        else:
            self.stop("stop", question.grace)
            self.waiting_for_stop.append(asker)

    def status(self) -> Holder:
        """Return the status of this run."""
        return Holder(
            run_id=self.request.run_id,
            attempt=self.request.attempt,
            owner=self.request.owner,
            workload=self.request.workload,
            age=time.time() - self.started_at,
            stopping=self.stopped_by is not None,
            version=VERSION,
        )

    def stop(self, who: str, grace: float) -> None:
        """Schedule the end of the run: SIGTERM for torchrun, SIGKILL for what is left after ``grace`` seconds.

        torchrun passes SIGTERM on to its workers. ``who``: the reason to record. A second stop can only shorten
        the grace period.
        """
        now = time.monotonic()
        if self.stopped_by is None:
            self.stopped_by = who
            self.journal.record(Stopping(time=time.time(), by=who, grace=grace))
            # If a worker is already dead, torchrun must first report how it died; a stop would hide that.
            self.term_at = now + NOTICE_TIME if grace and self.workers.any_ended() else now
        self.kill_at = now + grace if self.kill_at is None else min(self.kill_at, now + grace)

    def end_if_due(self, torchrun: subprocess.Popen[bytes]) -> None:
        """Send the signals that are due: SIGTERM to torchrun, SIGKILL to every process of the attempt."""
        now = time.monotonic()
        if self.term_at is not None and (now >= self.term_at or self.workers.failed):
            self.term_at = None
            if torchrun.poll() is None:
                self.send_sigterm(torchrun)
        if self.kill_at is not None and now >= self.kill_at:
            processes.send(signal.SIGKILL, self.survivors())
            self.kill_at = now + 1.0
            self.killed_at = self.killed_at or now

    def send_sigterm(self, child: subprocess.Popen[bytes]) -> None:
        """Send SIGTERM to torchrun, once: a second one would interrupt how it ends its workers.

        Engines pass SIGTERM on to the container's first process, which need not be torchrun, and ignores SIGTERM
        until it has a handler. Then it has no workers yet, and is killed. mpirun would kill ranks a second later,
        so what it started gets SIGTERM, and mpirun ends with that.
        """
        starters = self.workers.starters() if self.request.mpi is not None else []
        if starters:
            processes.send(signal.SIGTERM, starters)
        elif self.request.container is None:
            processes.send(signal.SIGTERM, [child.pid])
        elif self.workers.torchrun is not None:
            processes.send(signal.SIGTERM, [self.workers.torchrun])
        else:
            heedless = [pid for pid in self.survivors() if processes.heedless(pid)]
            processes.send(signal.SIGTERM, [child.pid])
            processes.send(signal.SIGKILL, heedless)

    def outlived_sigkill(self) -> bool:
        """Return whether torchrun has outlived SIGKILL for more than ``UNENDED_AFTER`` seconds."""
        return self.killed_at is not None and time.monotonic() > self.killed_at + UNENDED_AFTER

    def survivors(self, even_engine: bool = False) -> list[int]:
        """Return the live processes of this attempt, without the supervisor.

        The processes of a container's engine bear no mark. Unless ``even_engine``, they are left out.
        """
        find = processes.of_run if even_engine or self.request.container is None else processes.marked
        return find(self.request.run_id, self.request.attempt)

    def clear(self, wake: int, even_engine: bool = False) -> tuple[int, list[str]]:
        """End the processes that outlive torchrun, without those of a container's engine unless ``even_engine``.

        Return how many had to be killed, and descriptions of those that could not be ended.
        """
        killed = 0
        left = self.survivors(even_engine)
        processes.send(signal.SIGTERM, left)
        deadline = time.monotonic() + SURVIVOR_GRACE
        given_up = deadline + UNENDED_AFTER
        while left and time.monotonic() < given_up:
            if self.kill_at is not None:
                deadline = min(deadline, self.kill_at)
                given_up = min(given_up, deadline + UNENDED_AFTER)
            self.term_at = self.kill_at = None
            if time.monotonic() >= deadline:
                processes.send(signal.SIGKILL, left)
                killed = max(killed, len(left))
            self.wait(wake, DISCOVERY_INTERVAL)
            self.reap()
            left = self.survivors(even_engine)
        self.reap()
        return killed - len(left) if killed else 0, processes.described(left)

    def reap(self) -> None:
        """Reap ended orphans, which became children of this subreaper."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since boot (/proc/vmstat, Linux 4.13).

    Return 0 where the kernel does not count them.
    """
    try:
        with open("/proc/vmstat") as lines:
            for line in lines:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
