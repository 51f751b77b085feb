"""Other programs, and parts of our own, that may hang, flood or answer rubbish: each has its limits."""

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

MOST_OUTPUT = 256 * 1024


class NoAnswer(Exception):
    """A part that gave no answer; the message says why, in a few words. ``output``: what it printed before."""

    def __init__(self, message: str, output: bytes = b"") -> None:
        super().__init__(message)
        self.output = output.decode("utf-8", "replace")


def run(argv: Sequence[str], limit: float, environ: dict[str, str] | None = None) -> str:
    """What a program prints to stdout, as text; raises Failed if it is missing, fails, hangs or prints too much.

    ``limit`` in seconds. Nothing of it is left running.
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
            # Killed, but perhaps asleep in the kernel: it must not hold us up.
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


def gather(parts: Mapping[str, tuple[float, Callable[[], object]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Call all at once; return each answer by its name, and for each that gave none why.

    ``parts``: ``{name: (limit in seconds, function)}``. One that hangs or breaks holds no other up.
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
    # What comes later changes nothing any more.
    found, failed = dict(answers), dict(unanswered)
    for name, (limit, _) in parts.items():
        if name not in found and name not in failed:
            failed[name] = "no answer within %g s" % limit
    return found, failed
