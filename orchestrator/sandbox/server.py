"""The embedded cluster's SSH servers: one asyncssh listener per host, which starts real processes."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncssh

from orchestrator.sandbox.cluster import SandboxHost, write_state

FIRST_ADDRESS = 11
PIECE = 128 * 1024
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


def key_at(path: Path) -> asyncssh.SSHKey:
    """Return the private key in a file, making it if the file is missing."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = asyncssh.generate_private_key("ssh-ed25519")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(key.export_private_key())
    return asyncssh.read_private_key(str(path))


def own_address(wanted: str) -> str:
    """Return ``wanted`` if this machine has that loopback address, as Linux does; macOS has only 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((wanted, 0))
        except OSError:
            return "127.0.0.1"
    return wanted


class HostServer:
    """One host: its home folder, its keys and its logins."""

    def __init__(self, folder: Path, name: str, number: int) -> None:
        self.name = name
        self.address = own_address(f"127.0.0.{FIRST_ADDRESS + number}")
        self.home = folder / name / "home"
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.client_key = key_at(folder / "id_ed25519")
        self.key = key_at(folder / name / "host_key")
        self.identity_file = str(folder / "id_ed25519")

    async def listen(self) -> SandboxHost:
        """Open the port; return how to reach the host."""
        client = asyncssh.import_authorized_keys(self.client_key.export_public_key().decode())
        server = await asyncssh.listen(
            self.address,
            0,
            server_host_keys=[self.key],
            authorized_client_keys=client,
            process_factory=self.serve,
            sftp_factory=self.sftp,
            encoding=None,
            keepalive_interval=30,
        )
        public = self.key.export_public_key().decode().split()
        return SandboxHost(
            self.name,
            self.address,
            server.sockets[0].getsockname()[1],
            getpass.getuser(),
            self.identity_file,
            f"{public[0]} {public[1]}",
            str(self.home),
        )

    def sftp(self, channel: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
        """Return a file transfer server that starts in the home folder."""
        return _HomeSFTP(channel, self.home)

    def environment(self, process: asyncssh.SSHServerProcess[bytes]) -> dict[str, str]:
        """Return the variables of a login: few, as with a real sshd."""
        env = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        user = getpass.getuser()
        peer, local = process.get_extra_info("peername"), process.get_extra_info("sockname")
        return {
            **env,
            "HOME": str(self.home),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            "SSH_CONNECTION": f"{peer[0]} {peer[1]} {local[0]} {local[1]}",
            "ORCH_HOSTNAME": self.name,
        }

    async def serve(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """Run a command as a child with pipes, and copy the bytes with back-pressure both ways."""
        command = ["/bin/sh", "-c", process.command] if process.command else ["/bin/sh", "-l"]
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.home,
            env=self.environment(process),
            limit=PIECE,
        )
        assert child.stdin and child.stdout and child.stderr
        feeding = asyncio.create_task(_feed(process, child.stdin))
        pumps = asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
        try:
            await pumps
            code = await child.wait()
            if code < 0:
                process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
            else:
                process.exit(code)
        finally:
            # As with a real sshd, the loss of the client closes the pipes and does not end the process.
            feeding.cancel()
            pumps.cancel()
            _close_pipes(child)


class _HomeSFTP(asyncssh.SFTPServer):
    """The whole file system, as the user may see it; relative paths start at the home folder."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], home: Path) -> None:
        super().__init__(channel)
        self._home = os.fsencode(home)

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(self._home, path)  # noqa: PTH118  asyncssh maps bytes


async def _pump(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    """Copy bytes from a pipe to the client, no faster than the client reads."""
    with contextlib.suppress(BrokenPipeError, ConnectionError, asyncssh.Error):
        while piece := await source.read(PIECE):
            target.write(piece)
            await target.drain()


async def _feed(process: asyncssh.SSHServerProcess[bytes], target: asyncio.StreamWriter) -> None:
    """Copy bytes from the client to the command's stdin, and close it at their end."""
    with contextlib.suppress(BrokenPipeError, ConnectionError, asyncssh.Error):
        while piece := await process.stdin.read(PIECE):
            target.write(piece)
            await target.drain()
    target.close()
    # The session is over when the client closes it, so this task lasts until then.
    with contextlib.suppress(asyncssh.Error):
        await process.wait_closed()


def _close_pipes(child: asyncio.subprocess.Process) -> None:
    transport = getattr(child, "_transport", None)
    for number in (0, 1, 2):
        pipe = transport.get_pipe_transport(number) if transport else None
        if pipe is not None:
            pipe.close()


async def _serve_all(folder: Path, state: Path, names: Sequence[str], keep: bool) -> None:
    hosts = [await HostServer(folder, name, number).listen() for number, name in enumerate(names)]
    write_state(state, hosts)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if not keep:
        # stdin reaches its end when the command that started this server ends.
        def heard() -> None:
            if not os.read(sys.stdin.fileno(), 1024):
                over.set()

        loop.add_reader(sys.stdin.fileno(), heard)
    await over.wait()


def main(argv: Sequence[str]) -> None:
    """Serve the hosts of ``FOLDER STATE NAME...`` until a signal or, without keep, the end of stdin."""
    folder, state, *names = argv
    keep = bool(os.environ.pop("ORCH_SANDBOX_KEEP", ""))
    asyncio.run(_serve_all(Path(folder), Path(state), names, keep))
