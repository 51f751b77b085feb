"""One command on a node: its input, its output, its end."""

from __future__ import annotations

import contextlib
import threading
import time

import paramiko

from orchestrator import errors
from orchestrator.remote.ssh.translation import translate, translated

PIECE = 128 * 1024
# How long a command may take in nothing of what is sent to it, and how long it may take to say how it ended.
WRITE_LIMIT, EXIT_LIMIT = 120.0, 30.0
# What a command may print that is kept whole, in bytes.
MOST_OUTPUT = 64 * 1024 * 1024


class Channel:
    """One command on a node. ``read`` and ``write`` raise ConnectionLost when the connection breaks."""

    def __init__(self, host: str, channel: paramiko.Channel) -> None:
        self.host = host
        self.sent = 0
        self._channel = channel

    def write(self, data: bytes | memoryview) -> None:
        """Send to the command's stdin; ``sent`` counts the bytes. ConnectionSilent if it takes in nothing."""
        view = memoryview(data)
        taken_at, pause = time.monotonic(), 0.001
        with translated(self.host):
            while view:
                if not self._channel.send_ready() and not self._channel.closed:
                    if time.monotonic() - taken_at > WRITE_LIMIT:
                        raise errors.ConnectionSilent(f"it took in nothing for {WRITE_LIMIT:g} s")
                    time.sleep(pause)
                    pause = min(2 * pause, 0.05)
                    continue
                size = self._channel.send(bytes(view[:PIECE]))
                if not size:
                    raise EOFError("it reads no more")
                view = view[size:]
                self.sent += size
                taken_at, pause = time.monotonic(), 0.001

    def end_input(self) -> None:
        """Close the command's stdin."""
        with translated(self.host):
            self._channel.shutdown_write()

    def read(self, silence: float | None = None) -> bytes:
        """The next piece of stdout, b"" at its end; ConnectionSilent if none comes for ``silence`` seconds."""
        with translated(self.host):
            self._channel.settimeout(silence)
            try:
                return self._channel.recv(PIECE)
            except TimeoutError:
                raise errors.ConnectionSilent(f"nothing heard for {silence:g} s") from None
            finally:
                self._channel.settimeout(None)

    def read_errors(self) -> bytes:
        """What the command has written to stderr so far, without waiting."""
        parts = []
        while self._channel.recv_stderr_ready():
            parts.append(self._channel.recv_stderr(PIECE))
        return b"".join(parts)

    def output(self, silence: float | None = None) -> tuple[bytes, bytes]:
        """All of stdout and stderr, read side by side so that neither can block the other.

        Raises ConnectionSilent as ``read`` does, and NodeProgramError for more than MOST_OUTPUT bytes.
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
                raise errors.NodeProgramError(what, remedy="write it to a file there", host=self.host)
        reader.join(EXIT_LIMIT)
        return b"".join(out), b"".join(err)

    def exit_code(self, limit: float | None = EXIT_LIMIT) -> int:
        """Wait for the command's end, at most ``limit`` seconds. Raises ConnectionLost if it is not heard of."""
        if not self._channel.status_event.wait(limit):
            raise errors.ConnectionSilent(f"no exit code within {limit:g} s", host=self.host)
        with translated(self.host):
            code = self._channel.recv_exit_status()
        if code == -1 and not self._channel.get_transport().is_active():
            raise translate(EOFError("no exit status"), self.host)
        return code

    def close(self) -> None:
        """Give the channel up."""
        with contextlib.suppress(Exception):
            self._channel.close()
