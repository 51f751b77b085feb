"""Run programs and functions under a time limit, and programs under a limit on their output, too."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

# Most bytes that a program may print to stdout, and to stderr.
MOST_OUTPUT = 256 * 1024


class NoAnswer(Exception):
    """A program or function gave no answer; the message is the reason. ``output``: what the program printed."""

    def __init__(self, message: str, output: bytes = b"") -> None:
        super().__init__(message)
        self.output = output.decode("utf-8", "replace")


def run(argv: Sequence[str], limit: float, environ: dict[str, str] | None = None) -> str:
    """Run a program and return what it prints to stdout, as text.

    Raises NoAnswer if the program cannot be started, fails, takes longer than ``limit`` seconds, or prints more
    than ``MOST_OUTPUT``. Its process group is killed in any case. ``environ``: its variables; None for this
    process's.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=environ,
        )
    except OSError as error:
        raise NoAnswer("cannot be started: %s" % error.strerror) from None
    try:
        out, err = _output(process, time.monotonic() + limit, limit)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if process.poll() is None:
            # A killed process may still sleep in the kernel; do not wait for it here.
            threading.Thread(target=process.wait, daemon=True).start()
    if process.returncode:
        said = err.decode("utf-8", "replace").strip().splitlines()
        raise NoAnswer("exit code %d%s" % (process.returncode, ": " + said[-1][:300] if said else ""), out)
    return out.decode("utf-8", "replace")


def _output(process: subprocess.Popen[bytes], deadline: float, limit: float) -> tuple[bytes, bytes]:
    assert process.stdout is not None and process.stderr is not None
    found = {process.stdout: b"", process.stderr: b""}
    waiting = list(found)
    while waiting:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise NoAnswer("no answer within %g s" % limit, found[process.stdout])
        for stream in ready:
            piece = os.read(stream.fileno(), 65536)
            found[stream] += piece
            if not piece:
                waiting.remove(stream)
            if len(found[stream]) > MOST_OUTPUT:
                raise NoAnswer("printed more than %d KiB" % (MOST_OUTPUT // 1024))
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise NoAnswer("no answer within %g s" % limit, found[process.stdout]) from None
    return found[process.stdout], found[process.stderr]


def run_all(parts: Mapping[str, tuple[float, Callable[[], object]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Call all functions at once; return the answers by name, and the reasons of those without one by name.

    ``parts``: ``{name: (limit in seconds, function)}``. A function that hangs or fails does not delay the others.
    """
    answers: dict[str, object] = {}
    unanswered: dict[str, str] = {}

    def work(name: str, function: Callable[[], object]) -> None:
        try:
            answers[name] = function()
        except NoAnswer as error:
            unanswered[name] = str(error)
        except Exception as error:
            unanswered[name] = "%s: %s" % (type(error).__name__, error)

    began = time.monotonic()
    threads = {}
    for name, (_, function) in parts.items():
        threads[name] = threading.Thread(target=work, args=(name, function), daemon=True)
        threads[name].start()
    for name, (limit, _) in parts.items():
        threads[name].join(max(0.0, began + limit - time.monotonic()))
    # The results are copied, so that late answers change nothing.
    found, failed = dict(answers), dict(unanswered)
    for name, (limit, _) in parts.items():
        if name not in found and name not in failed:
            failed[name] = "no answer within %g s" % limit
    return found, failed
