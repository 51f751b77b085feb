"""Owns one torchrun on one node: starts it, records what happens, ends it, and leaves nothing behind.

It is a session of its own, so the connection that started it may break. Everything it has to say goes to
``events.jsonl`` in the run's folder; ``follow`` reads it from there.
"""

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

from . import failure, lock, processes

DISCOVERY_INTERVAL = 0.05
IDLE_INTERVAL = 1.0
# How long what torchrun leaves behind may take to end by itself before it is killed, in seconds.
SURVIVOR_GRACE = 2.0


def main(request, run, work, lock_fd):
    """Supervise until nothing of the run is left, then exit. Never returns."""
    code = 1
    try:
        Supervisor(request, run, work, socket.socket(fileno=lock_fd)).supervise()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


class Supervisor:
    """One run's life on this node; ``supervise()`` is all of it."""

    def __init__(self, request, run, work, listener):
        self.request = request
        self.run = run
        self.work = work
        self.listener = listener
        self.logs = os.path.join(run, "logs")
        # Open for as long as the supervisor lives.
        self.events = open(os.path.join(run, "events.jsonl"), "a")  # noqa: SIM115
        self.started_at = time.time()
        self.torchrun = None
        self.workers = set()
        self.stopped_by = None
        self.kill_at = None
        self.askers = []

    def supervise(self):
        """Start torchrun, serve the lock's door, and return when no process of the run is left."""
        processes.become_subreaper()
        wake = self.wake_on_child()
        try:
            self.start_torchrun()
        except OSError as error:
            self.record("failed_to_start", error=str(error))
            self.record("finished", exit_code=127, signal=None, stopped=False, killed=0)
            return
        while self.torchrun.poll() is None:
            busy = len(self.workers) < self.request["nproc"]
            self.wait(wake, DISCOVERY_INTERVAL if busy else IDLE_INTERVAL)
            if busy:
                self.find_workers()
            self.kill_if_due()
        self.find_logs()
        if self.torchrun.returncode != 0 and self.stopped_by is None:
            for fields in failure.find(self.logs):
                self.record("rank_failed", **fields)
        killed = self.clear(wake)
        code = self.torchrun.returncode
        self.record(
            "finished",
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            stopped=self.stopped_by is not None,
            killed=killed,
        )
        for asker in self.askers:
            self.reply(asker, {"run_id": self.request["run_id"], "gone": True})

    def record(self, kind, **fields):
        """Append an event; it is on disk's way before anything that follows from it is done."""
        self.events.write(json.dumps(dict(fields, event=kind, time=time.time())) + "\n")
        self.events.flush()

    def wake_on_child(self):
        """A descriptor that becomes readable when a child ends."""
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self.stop("SIGTERM", self.request["grace"]))
        signal.set_wakeup_fd(write_end)
        return read_end

    def start_torchrun(self):
        """Start torchrun in a session of its own; it gets SIGTERM should the supervisor die."""
        environ = dict(os.environ)
        environ.update(self.request["env"])
        me = os.getpid()
        with open(os.path.join(self.logs, "torchrun.log"), "ab") as log:
            self.torchrun = subprocess.Popen(
                self.request["argv"],
                cwd=os.path.join(self.work, self.request["cwd"]),
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: processes.die_with_parent(me),
            )
        self.record("torchrun_started", pid=self.torchrun.pid)

    def find_workers(self):
        """Record each worker that has appeared, with the rank that torchrun gave it."""
        for pid in processes.children(self.torchrun.pid):
            local_rank = processes.variable(pid, "LOCAL_RANK")
            if local_rank is None or int(local_rank) in self.workers:
                continue
            stdout = self.log_file(int(local_rank), "stdout.log")
            rank = processes.variable(pid, "RANK")
            if stdout is not None and rank is not None:
                self.record_worker(int(local_rank), int(rank), pid, os.path.dirname(stdout))

    def find_logs(self):
        """Record the workers that came and went unseen, by the logs they left."""
        for local_rank in range(self.request["nproc"]):
            stdout = self.log_file(local_rank, "stdout.log")
            if local_rank not in self.workers and stdout is not None:
                first = self.request["first_rank"]
                rank = None if first is None else first + local_rank
                self.record_worker(local_rank, rank, None, os.path.dirname(stdout))

    def record_worker(self, local_rank, rank, pid, folder):
        """Record a worker and where its output is."""
        self.workers.add(local_rank)
        self.record("worker", rank=rank, local_rank=local_rank, pid=pid, logs=os.path.relpath(folder, self.run))

    def log_file(self, local_rank, name):
        """torchrun's file of one worker's stream, or None: ``<logs>/<id>/attempt_0/<local_rank>/<name>``."""
        for entry in os.listdir(self.logs):
            path = os.path.join(self.logs, entry, "attempt_0", str(local_rank), name)
            if os.path.exists(path):
                return path
        return None

    def wait(self, wake, seconds):
        """Until a child ends, somebody asks, or the time is over."""
        if self.kill_at is not None:
            seconds = min(seconds, max(0.0, self.kill_at - time.monotonic()))
        ready, _, _ = select.select([wake, self.listener], [], [], seconds)
        if wake in ready:
            os.read(wake, 4096)
        if self.listener in ready:
            self.serve()

    def serve(self):
        """Answer one question at the lock's door; a stop is answered when the run is gone."""
        asker, _ = self.listener.accept()
        asker.settimeout(1.0)
        try:
            question = json.loads(asker.makefile("rb").readline().decode("ascii"))
            if question["op"] == "status":
                self.reply(asker, self.status())
            elif question["run_id"] not in (None, self.request["run_id"]):
                self.reply(asker, {"run_id": self.request["run_id"], "other": True})
            elif not lock.may_stop(lock.peer_uid(asker)):
                self.reply(asker, {"run_id": self.request["run_id"], "denied": self.request["owner"]})
            else:
                self.stop("stop", float(question["grace"]))
                self.askers.append(asker)
        except (OSError, ValueError, KeyError):
            asker.close()

    def reply(self, asker, value):
        """Answer and hang up; an asker that has gone is no error."""
        with contextlib.suppress(OSError):
            asker.sendall(json.dumps(value).encode("ascii") + b"\n")
        asker.close()

    def status(self):
        """The facts of this run."""
        return {
            "run_id": self.request["run_id"],
            "owner": self.request["owner"],
            "workload": self.request["workload"],
            "age": time.time() - self.started_at,
        }

    def stop(self, who, grace):
        """Ask torchrun to end (it passes SIGTERM on to its workers); kill what is left after ``grace``."""
        deadline = time.monotonic() + grace
        if self.stopped_by is None:
            self.stopped_by = who
            self.record("stopping", by=who, grace=grace)
            if self.torchrun is not None and self.torchrun.poll() is None:
                processes.send(signal.SIGTERM, [self.torchrun.pid])
        self.kill_at = deadline if self.kill_at is None else min(self.kill_at, deadline)

    def kill_if_due(self):
        """Kill the whole run when the grace period is over."""
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
            processes.send(signal.SIGKILL, self.survivors())
            self.kill_at = time.monotonic() + 1.0

    def survivors(self):
        """The live processes of this run, other than the supervisor."""
        return processes.of_run(self.request["run_id"], self.request["node"])

    def clear(self, wake):
        """End what torchrun left behind; returns how many processes had to be killed."""
        killed = 0
        left = self.survivors()
        processes.send(signal.SIGTERM, left)
        deadline = time.monotonic() + SURVIVOR_GRACE
        if self.kill_at is not None:
            deadline = min(deadline, self.kill_at)
        self.kill_at = None
        while left:
            if time.monotonic() >= deadline:
                processes.send(signal.SIGKILL, left)
                killed = max(killed, len(left))
            self.wait(wake, DISCOVERY_INTERVAL)
            self.reap()
            left = self.survivors()
        self.reap()
        return killed

    def reap(self):
        """Collect the orphans that became children of this subreaper."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
