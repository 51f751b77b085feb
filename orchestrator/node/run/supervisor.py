"""Owns one torchrun on one node: starts it, records what happens, ends it, and leaves nothing behind.

It is a session of its own, so the connection that started it may break. Everything it has to say goes to
``events.jsonl`` in the attempt's folder; ``follow`` reads it from there.
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
from ...protocol.run import AskStop, Holder
from ..host import bounded, door, processes
from ..probe import machine
from ..store import prune
from .dead_man_switch import DeadManSwitch
from .journal import Journal
from .sample import Sampler
from .workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from ...protocol.run import Question, Start

DISCOVERY_INTERVAL = 0.05
IDLE_INTERVAL = 0.25
# How long what torchrun leaves behind may take to end by itself before it is killed, in seconds.
SURVIVOR_GRACE = 2.0
# What is left so long after SIGKILL cannot be ended: it belongs to another user, or sleeps in the kernel.
UNENDED_AFTER = 3.0
# How long torchrun may take to notice a worker's end before a stop hides how it ended, in seconds.
NOTICE_TIME = 1.0


def main(request: Start, folder: str, work: str, lock_fd: int) -> NoReturn:
    """Supervise until nothing of the run is left, then exit. Never returns."""
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
    """One attempt's life on this node; ``supervise()`` is all of it."""

    def __init__(self, request: Start, folder: str, work: str, listener: socket.socket) -> None:
        self.request = request
        self.folder = folder
        self.work = work
        self.door = door.Door(listener)
        self.logs = os.path.join(folder, "logs")
        self.journal = Journal(folder)
        self.workers = Workers(request, folder, work, self.journal.record)
        self.sampler = Sampler(folder)
        self.dead_man_switch = DeadManSwitch(folder, request.on_disconnect, request.cut_off)
        self.sizes: dict[str, int] = {}
        self.log_limit = request.log_limit
        self.started_at = time.time()
        self.oom_kills = oom_kills()
        self.stopped_by: str | None = None
        self.term_at: float | None = None
        self.kill_at: float | None = None
        # When SIGKILL was sent for the first time.
        self.killed_at: float | None = None
        self.askers: list[socket.socket] = []

    def supervise(self) -> None:
        """Start torchrun, serve the lock's door, and return when no process of the run is left."""
        processes.become_subreaper()
        self.outlive_session()
        wake = self.wake_on_child()
        try:
            torchrun = self.start_torchrun()
        except OSError as error:
            self.journal.record(FailedToStart(time=time.time(), error=str(error)))
            self.finish(127, 0, [])
            return
        while torchrun.poll() is None and not self.unended():
            self.wait(wake, IDLE_INTERVAL if self.workers.complete else DISCOVERY_INTERVAL)
            try:
                self.look(torchrun)
            except OSError:
                # A log that somebody removed, say: what is recorded suffers, the run goes on.
                traceback.print_exc()
            self.end_if_due(torchrun)
        self.workers.find_logs()
        if torchrun.returncode and self.stopped_by is None:
            self.workers.find_summary()
        self.sampler.close()
        killed, alive = self.clear(wake)
        code: int | None = torchrun.returncode
        self.finish(-signal.SIGKILL if code is None else code, killed, alive)

    def outlive_session(self) -> None:
        """Leave the session's scope where systemd would end what is in it at logout."""
        known = machine.logout()
        if known.kills and known.moves:
            try:
                machine.leave_session("%s-%d" % (self.request.run_id, self.request.attempt))
            except bounded.NoAnswer as error:
                sys.stderr.write("cannot leave the session's scope: %s\n" % error)
                sys.stderr.flush()

    def look(self, torchrun: subprocess.Popen[bytes]) -> None:
        """See what has changed since the last look."""
        if self.request.min_nodes or not self.workers.complete:
            self.workers.find(torchrun.pid)
        if self.stopped_by is None or self.term_at is not None:
            self.workers.find_failure()
        if self.sampler.tick():
            self.note_sizes()
        reason = self.dead_man_switch.ended() if self.stopped_by is None else None
        if reason is not None:
            self.stop(reason, self.request.grace)

    def finish(self, code: int, killed: int, alive: Sequence[str]) -> None:
        """Record how it ended, and tell those who wait for it. ``alive`` describes what could not be ended."""
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
        for asker in self.askers:
            door.reply(asker, Holder(run_id=self.request.run_id, gone=True, alive=tuple(alive)))
        # The host is free from here on.
        self.door.close()
        with contextlib.suppress(OSError):
            prune.forget_old(self.request.workdir)

    def note_sizes(self) -> None:
        """Keep how long each log was by now: lines have no time of their own, ``logs --since`` needs one.

        And keep each within its limit.
        """
        sizes = self.workers.sizes()
        if self.log_limit and any(size > self.log_limit for size in sizes.values()):
            try:
                self.workers.cut(self.log_limit)
            except OSError as error:
                self.log_limit = None
                sys.stderr.write("logs grow without a limit, this disk cannot cut them: %s\n" % error)
                sys.stderr.flush()
        if sizes != self.sizes:
            self.sizes = sizes
            with contextlib.suppress(OSError), open(os.path.join(self.folder, "sizes.jsonl"), "a") as file:
                file.write(json.dumps({"time": time.time(), "sizes": sizes}) + "\n")

    def wake_on_child(self) -> int:
        """A descriptor that becomes readable when a child ends."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self.stop("SIGTERM", self.request.grace))
        signal.set_wakeup_fd(write_end)
        return read_end

    def start_torchrun(self) -> subprocess.Popen[bytes]:
        """Start torchrun in a session of its own; it gets SIGTERM should the supervisor die."""
        environ = dict(os.environ)
        environ.update(self.request.env)
        me = os.getpid()
        with open(os.path.join(self.logs, "torchrun.log"), "ab") as log:
            torchrun = subprocess.Popen(
                self.request.argv,
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
        """Until a child ends, somebody asks, or the time is over."""
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
        """Answer one question; a stop is answered when the run is gone."""
        if not isinstance(question, AskStop):
            door.reply(asker, self.status())
        elif question.run_id not in (None, self.request.run_id):
            door.reply(asker, Holder(run_id=self.request.run_id, other=True))
        else:
            self.stop("stop", question.grace)
            self.askers.append(asker)

    def status(self) -> Holder:
        """The facts of this run."""
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
        """Ask torchrun to end (it passes SIGTERM on to its workers); kill what is left after ``grace``."""
        now = time.monotonic()
        if self.stopped_by is None:
            self.stopped_by = who
            self.journal.record(Stopping(time=time.time(), by=who, grace=grace))
            # A worker that is gone already is the more interesting end: let torchrun say how it ended.
            self.term_at = now + NOTICE_TIME if grace and self.workers.any_ended() else now
        self.kill_at = now + grace if self.kill_at is None else min(self.kill_at, now + grace)

    def end_if_due(self, torchrun: subprocess.Popen[bytes]) -> None:
        """Send what a stop has announced: SIGTERM to torchrun, after the grace period SIGKILL to all."""
        now = time.monotonic()
        if self.term_at is not None and (now >= self.term_at or self.workers.failed):
            self.term_at = None
            if torchrun.poll() is None:
                processes.send(signal.SIGTERM, [torchrun.pid])
        if self.kill_at is not None and now >= self.kill_at:
            processes.send(signal.SIGKILL, self.survivors())
            self.kill_at = now + 1.0
            self.killed_at = self.killed_at or now

    def unended(self) -> bool:
        """Whether torchrun itself cannot be ended, not even by SIGKILL."""
        return self.killed_at is not None and time.monotonic() > self.killed_at + UNENDED_AFTER

    def survivors(self) -> list[int]:
        """The live processes of this attempt, other than the supervisor."""
        return processes.of_run(self.request.run_id, self.request.attempt)

    def clear(self, wake: int) -> tuple[int, list[str]]:
        """End what torchrun left behind: how many processes had to be killed, and what could not be, in words."""
        killed = 0
        left = self.survivors()
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
            left = self.survivors()
        self.reap()
        return killed - len(left) if killed else 0, processes.described(left)

    def reap(self) -> None:
        """Collect the orphans that became children of this subreaper."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return


def oom_kills() -> int:
    """How many processes this machine has killed for memory since it started (proc_vmstat, Linux 4.13)."""
    try:
        with open("/proc/vmstat") as lines:
            for line in lines:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
