"""This machine in place of a login node: the same calls, without SSH."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import tempfile
import threading

from orchestrator import errors
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.remote.slurm.login import SharedConnection
from orchestrator.remote.ssh.authentication import KEYS, Login
from orchestrator.remote.ssh.channel import EXIT_LIMIT, PIECE, Channel
from orchestrator.remote.ssh.connection import Connection

# How long a command may take to end once its input is closed, in seconds.
CLOSING = 1.0


class LocalChannel(Channel):
    """A command line of this machine's shell, in a session of its own, so that Ctrl-C does not reach it."""

    def __init__(self, host: str, command: str) -> None:
        self.host = host
        self.sent = 0
        # A file takes any amount of stderr while stdout is read.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )

    def write(self, data: bytes | memoryview) -> None:
        """Send to stdin. Raises ConnectionLost if the command has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise errors.ConnectionLost("the command has ended", host=self.host) from None
        self.sent += len(data)

    def end_input(self) -> None:
        """Close the command's stdin."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def read(self, silence: float | None = None) -> bytes:
        """Return the next piece of stdout, b"" at its end. Raises ConnectionSilent after ``silence`` seconds."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], silence)[0]:
            raise errors.ConnectionSilent(f"no data for {silence:g} s", host=self.host)
        return os.read(self._process.stdout.fileno(), PIECE)

    def read_errors(self) -> bytes:
        """Return stderr so far."""
        self._errors.seek(0)
        return self._errors.read()

    def output(self, silence: float | None = None) -> tuple[bytes, bytes]:
        """Return all of stdout and stderr. Raises ConnectionSilent as ``read`` does."""
        pieces = []
        while piece := self.read(silence):
            pieces.append(piece)
        return b"".join(pieces), self.read_errors()

    def exit_code(self, limit: float | None = EXIT_LIMIT) -> int:
        """Return the exit code, waiting at most ``limit`` seconds. Raises ConnectionSilent if none arrives."""
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise errors.ConnectionSilent(f"no exit code within {limit:g} s", host=self.host) from None

    def close(self) -> None:
        """End the command. A thread that reads its output sees the end of it."""
        self.end_input()

        def end() -> None:
            try:
                self._process.wait(CLOSING)
            except subprocess.TimeoutExpired:
                self._process.terminate()
                self._process.wait()

        threading.Thread(target=end, daemon=True).start()


class LocalConnection(SharedConnection):
    """This machine, which all nodes of a job share."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self.host = host
        self.settings = settings
        self.login = KEYS

    def open(self, login: Login = KEYS) -> None:
        """Do nothing: this machine is always there."""

    def reopen(self, timeout: float) -> None:
        """Do nothing: this machine is always there."""

    def command(self, command: str) -> Channel:
        """Start a command line on this machine."""
        return LocalChannel(self.host.name, command)

    @property
    def address(self) -> str:
        """The host's address."""
        return self.host.address

    @property
    def alive(self) -> bool:
        """Whether the connection is up: always."""
        return True

    def close(self) -> None:
        """Do nothing: there is no connection to close."""

    def seats(self, nodes: int) -> list[Connection]:
        """Return this machine for each node."""
        return [self] * nodes
