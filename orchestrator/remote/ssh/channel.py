"""The channel of one command on a node: stdin, stdout, stderr and the exit code."""

from __future__ import annotations

import contextlib
import threading
import time

import paramiko

from orchestrator import errors
from orchestrator.remote.ssh.translation import translate, translated

PIECE = 128 * 1024
# Longest time in which a command may read nothing of its input, and longest wait for its exit code, in seconds.
WRITE_LIMIT, EXIT_LIMIT = 120.0, 30.0
# Most bytes that a command may print to stdout; stderr is cut at the same size.
MOST_OUTPUT = 64 * 1024 * 1024


class Channel:
    """One command on a node. ``read`` and ``write`` raise ConnectionLost when the connection breaks."""

    def __init__(self, host: str, channel: paramiko.Channel) -> None:
        self.host = host
        self.sent = 0
        self._channel = channel

    def write(self, data: bytes | memoryview) -> None:
        """Send to stdin; ``sent`` counts the bytes. Raises ConnectionSilent if the command stops reading."""
        view = memoryview(data)
        taken_at, pause = time.monotonic(), 0.001
        with translated(self.host):
            while view:
                if not self._channel.send_ready() and not self._channel.closed:
                    if time.monotonic() - taken_at > WRITE_LIMIT:
                        raise errors.ConnectionSilent(f"the command read nothing for {WRITE_LIMIT:g} s")
                    time.sleep(pause)
                    pause = min(2 * pause, 0.05)
                    continue
                size = self._channel.send(bytes(view[:PIECE]))
                if not size:
                    raise EOFError("the channel is closed")
                view = view[size:]
                self.sent += size
                taken_at, pause = time.monotonic(), 0.001

    def end_input(self) -> None:
        """Close the command's stdin."""
        with translated(self.host):
            self._channel.shutdown_write()

    def read(self, silence: float | None = None) -> bytes:
        """Return the next piece of stdout, b"" at its end. Raises ConnectionSilent after ``silence`` seconds."""
        with translated(self.host):
            self._channel.settimeout(silence)
            try:
                return self._channel.recv(PIECE)
            except TimeoutError:
                raise errors.ConnectionSilent(f"no data for {silence:g} s") from None
            finally:
                self._channel.settimeout(None)

    def read_errors(self) -> bytes:
        """Return the unread part of stderr, without waiting."""
        parts = []
        while self._channel.recv_stderr_ready():
            parts.append(self._channel.recv_stderr(PIECE))
        return b"".join(parts)

    def output(self, silence: float | None = None) -> tuple[bytes, bytes]:
        """Return all of stdout and stderr, read side by side so that neither can block the other.

        Raises ConnectionSilent as ``read`` does, and NodeProgramError for more than MOST_OUTPUT bytes of stdout.
        """
        err: list[bytes] = []

        def drain() -> None:
            size = 0
            with contextlib.suppress(OSError, paramiko.SSHException):
                while piece := self._channel.recv_stderr(PIECE):
                    size += len(piece)
                    if size <= MOST_OUTPUT:
                        err.append(piece)

        reader = threading.Thread(target=drain, daemon=True)
        reader.start()
        out, size = [], 0
        while piece := self.read(silence):
            out.append(piece)
            size += len(piece)
            if size > MOST_OUTPUT:
                what = f"printed more than {MOST_OUTPUT >> 20} MiB"
                raise errors.NodeProgramError(what, remedy="redirect the output to a file", host=self.host)
        reader.join(EXIT_LIMIT)
        return b"".join(out), b"".join(err)

    def exit_code(self, limit: float | None = EXIT_LIMIT) -> int:
        """Return the exit code, waiting at most ``limit`` seconds. Raises ConnectionLost if none arrives."""
        if not self._channel.status_event.wait(limit):
            raise errors.ConnectionSilent(f"no exit code within {limit:g} s", host=self.host)
        with translated(self.host):
            code = self._channel.recv_exit_status()
        if code == -1 and not self._channel.get_transport().is_active():
            raise translate(EOFError("no exit status"), self.host)
        return code

    def close(self) -> None:
        """Close the channel, ignoring errors."""
        with contextlib.suppress(Exception):
            self._channel.close()
