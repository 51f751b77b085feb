"""The one door for SSH: nothing else imports fabric or paramiko, and none of their exceptions gets past it.

Fabric supplies ``~/.ssh/config``, jump hosts and keys. Two of its defaults are overruled: it accepts any
host key (AutoAddPolicy), and its ``run`` reads fast output slowly; channels here are paramiko's own.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.hostkeys import HostKeyEntry

from orchestrator import errors
from orchestrator.core.inventory.destination import Hop, parse_hop
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.known_hosts import KnownHosts
from orchestrator.core.inventory.target import Settings
from orchestrator.remote.connect.sshconfig import with_included

PIECE = 128 * 1024
# How long a command may take in nothing of what is sent to it, and how long it may take to say how it ended.
WRITE_LIMIT, EXIT_LIMIT = 120.0, 30.0
# What a command may print that is kept whole, in bytes.
MOST_OUTPUT = 64 * 1024 * 1024
KEEPALIVE = 15
# A server that is full drops connections before its banner; these are retried, refusals are not.
BANNER_ATTEMPTS = 4

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class Keyring:
    """The user's known_hosts files and private keys, read once for all connections."""

    def __init__(self, home: Path) -> None:
        self.file = home / ".ssh" / "known_hosts"
        self._lock = threading.Lock()
        self._identities: dict[Path, paramiko.PKey] = {}
        lines: list[str] = []
        for path in (Path("/etc/ssh/ssh_known_hosts"), self.file):
            with contextlib.suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()
        self._known = KnownHosts(lines)

    def keys_of(self, name: str) -> list[paramiko.PKey]:
        """The recorded keys of a host, named as known_hosts names it."""
        found = []
        for key in self._known.lookup(name):
            # As OpenSSH does, a damaged line is passed over.
            with contextlib.suppress(paramiko.SSHException, paramiko.hostkeys.InvalidHostKey, ValueError):
                if entry := HostKeyEntry.from_line(f"{name} {key}"):
                    found.append(entry.key)
        return found

    def revokes(self, name: str, key: paramiko.PKey) -> bool:
        """Whether a key must not be trusted for a host, whatever else says so."""
        return f"{key.get_name()} {key.get_base64()}" in self._known.revoked(name)

    def certifies(self, name: str) -> bool:
        """Whether known_hosts would trust a certificate of the host, which orch does not check."""
        return self._known.certified(name)

    def key_at(self, path: Path) -> paramiko.PKey:
        """The private key in a file, read once however many hosts take it; raises what paramiko raises."""
        with self._lock:
            if path not in self._identities:
                self._identities[path] = paramiko.PKey.from_path(path)
            return self._identities[path]

    def learn(self, name: str, key: paramiko.PKey) -> None:
        """Append a host's key to the user's file."""
        with self._lock:
            self.file.parent.mkdir(mode=0o700, exist_ok=True)
            text = self.file.read_text(errors="replace") if self.file.exists() else ""
            # Somebody's editor may have left the last line without its end.
            start = "\n" if text and not text.endswith("\n") else ""
            with self.file.open("a") as file:
                file.write(f"{start}{name} {key.get_name()} {key.get_base64()}\n")


class _HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """What to do about a host of which no key is recorded."""

    def __init__(self, host: str, settings: Settings, keyring: Keyring, pinned_fingerprint: str | None) -> None:
        self.host = host
        self.settings = settings
        self.keyring = keyring
        self.pinned_fingerprint = pinned_fingerprint

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        seen = fingerprint(key)
        if self.keyring.revokes(hostname, key):
            raise errors.HostKeyChanged(
                f"host key of {hostname} is REVOKED in known_hosts ({key.get_name()} {seen})",
                remedy="do not log in there; whoever runs it has to give it a new key",
                host=self.host,
            )
        if self.pinned_fingerprint:
            if seen != self.pinned_fingerprint:
                raise _changed(self.host, seen, self.pinned_fingerprint, "host_key: in the inventory")
        elif self.settings.accepts(seen):
            self.keyring.learn(hostname, key)
        elif self.keyring.certifies(hostname):
            raise errors.HostKeyUnknown(
                f"host key of {hostname} is only vouched for by a certificate (@cert-authority): orch checks none",
                fingerprint=seen,
                remedy=f"pin it: host_key: {seen}",
                host=self.host,
            )
        else:
            raise errors.HostKeyUnknown(
                f"host key of {hostname} is not known ({key.get_name()} {seen})",
                fingerprint=seen,
                remedy="check it, then pass --accept-new-host-keys once, or pin it with host_key:",
                host=self.host,
            )


def _transport(sock: Any, **options: Any) -> paramiko.Transport:
    """A transport that prefers AES-GCM: one pass over the bytes, where others take one for the MAC as well."""
    transport = paramiko.Transport(sock, **options)
    preferences = transport.get_security_options()
    preferences.ciphers = sorted(preferences.ciphers, key=lambda cipher: "gcm" not in cipher)
    return transport


def fingerprint(key: paramiko.PKey) -> str:
    """``SHA256:...`` as OpenSSH prints it."""
    return str(key.fingerprint)


def _changed(host: str, seen: str, recorded: str, where: str) -> errors.HostKeyChanged:
    return errors.HostKeyChanged(
        f"host key has CHANGED: it shows {seen}, {where} says {recorded}",
        remedy="somebody may be listening in; if the machine was set up anew, replace the recorded key",
        host=host,
    )


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
        with _translated(self.host):
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
        with _translated(self.host):
            self._channel.shutdown_write()

    def read(self, silence: float | None = None) -> bytes:
        """The next piece of stdout, b"" at its end; ConnectionSilent if none comes for ``silence`` seconds."""
        with _translated(self.host):
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
        with _translated(self.host):
            code = self._channel.recv_exit_status()
        if code == -1 and not self._channel.get_transport().is_active():
            raise translate(EOFError("no exit status"), self.host)
        return code

    def close(self) -> None:
        """Give the channel up."""
        with contextlib.suppress(Exception):
            self._channel.close()


class Connection:
    """The one SSH connection of a node; commands are channels on it."""

    def __init__(self, host: Host, settings: Settings, keyring: Keyring, ssh_config: paramiko.SSHConfig) -> None:
        self.host = host
        self.settings = settings
        self.keyring = keyring
        self._ssh_config = ssh_config
        self._fabric: Any = None

    def _prepare(self) -> fabric.Connection:
        gateway: fabric.Connection | None = None
        for text in self.host.jump:
            gateway = self._secured(self._made(_hop(text, "jump:"), gateway), None)
        host = Hop(self.host.address, self.host.user, self.host.port)
        return self._secured(self._made(host, gateway), self.host.host_key)

    def _made(
        self, to: Hop, gateway: fabric.Connection | None, through: tuple[str, ...] = ()
    ) -> fabric.Connection:
        """A connection through ``gateway``, or as ``~/.ssh/config`` says; every hop on the way is secured.

        Fabric would make those that the config names itself, with any key of theirs, and dial the last one first.
        """
        # Never shared: a Connection changes its Config while it is made, and others are made at the same time.
        # lazy: no fabric.yml takes part.
        config = fabric.Config(ssh_config=self._ssh_config, lazy=True)
        known = False if gateway is None else gateway
        made = fabric.Connection(to.host, user=to.user, port=to.port, config=config, gateway=known)
        named = made.ssh_config.get("proxyjump")
        if gateway is not None:
            return made
        if named is None or named.lower() == "none":
            made.gateway = made.ssh_config.get("proxycommand")
            return made
        if to.host in through:
            raise errors.UsageError(
                f"~/.ssh/config: ProxyJump of {to.host} goes round in circles", remedy="correct it"
            )
        hops = [_hop(text.strip(), "~/.ssh/config: ProxyJump") for text in named.split(",")]
        # A jump host for every host is named for itself, too.
        if not {hop.host for hop in hops} & {to.host, made.host}:
            for hop in hops:
                gateway = self._secured(self._made(hop, gateway, (*through, to.host)), None)
        made.gateway = gateway
        return made

    def _secured(self, connection: fabric.Connection, pinned: str | None) -> fabric.Connection:
        """Replace Fabric's AutoAddPolicy by the user's known_hosts, or the key pinned in the inventory."""
        timeout = self.settings.connect_timeout
        connection.connect_timeout = timeout
        named = connection.ssh_config.get("identityfile", [])
        connection.connect_kwargs = {
            "key_filename": [path for path in named if Path(path).expanduser().is_file()],
            "pkey": self._identity(),
            # As OpenSSH does: an identity that is named leaves only the agent's beside it.
            "look_for_keys": not (self.host.identity_file or named),
            "banner_timeout": timeout,
            "auth_timeout": timeout,
            "channel_timeout": timeout,
            "transport_factory": _transport,
        }
        client = connection.client
        name = connection.host if connection.port == 22 else f"[{connection.host}]:{connection.port}"
        wanted = None
        if pinned is None:
            for key in self.keyring.keys_of(name):
                client.get_host_keys().add(name, key.get_name(), key)
        elif pinned.startswith("SHA256:"):
            wanted = pinned
        else:
            entry = HostKeyEntry.from_line(f"{name} {pinned}")
            if entry is None:
                raise errors.UsageError("host_key: in the inventory is not a public key")
            if not self.keyring.revokes(name, entry.key):
                client.get_host_keys().add(name, entry.key.get_name(), entry.key)
        client.set_missing_host_key_policy(_HostKeyPolicy(self.host.name, self.settings, self.keyring, wanted))
        return connection

    def _identity(self) -> paramiko.PKey | None:
        """The key of ``identity_file``; None if there is none, or only an agent can unlock it."""
        identity = self.host.identity_file
        if identity is None:
            return None
        try:
            return self.keyring.key_at(Path(identity).expanduser())
        except paramiko.PasswordRequiredException:
            return None
        except OSError as error:
            problem = error.strerror or str(error)
        except RuntimeError:
            problem = "nobody's home folder is known by this name"
        except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError):
            problem = "not a private key"
        remedy = "correct identity_file: in the inventory"
        raise errors.AuthenticationFailed(f"identity_file {identity}: {problem}", remedy=remedy)

    @property
    def address(self) -> str:
        """What is dialled: the inventory's address, or what ``~/.ssh/config`` makes of it."""
        return str(self._fabric.host) if self._fabric else self.host.address

    @property
    def ssh_target(self) -> str:
        """This host as arguments of OpenSSH's programs, for remedies."""
        port = f"-p {self._fabric.port} " if self._fabric and self._fabric.port != 22 else ""
        return f"{port}{self._fabric.user}@{self.address}" if self._fabric else self.address

    @property
    def ssh_command(self) -> str:
        """What a user would type to try the same."""
        return f"ssh -v {self.ssh_target}"

    @property
    def where(self) -> str:
        """``user@address:port`` as dialled, for messages."""
        if self._fabric is None:
            return self.host.address
        return f"{self._fabric.user}@{self._fabric.host}:{self._fabric.port}"

    def open(self) -> None:
        """Connect; raises a NodeUnreachable that says why not, and what helps."""
        with _translated(self.host.name, connecting=self):
            self._fabric = self._prepare()
            self._open_with_retries()
            self._fabric.transport.set_keepalive(KEEPALIVE)

    def _open_with_retries(self) -> None:
        deadline = time.monotonic() + self.settings.connect_timeout
        for attempt in range(1, BANNER_ATTEMPTS + 1):
            try:
                self._fabric.open()
                return
            except (paramiko.SSHException, EOFError) as error:
                dropped = isinstance(error, EOFError) or "banner" in str(error)
                pause = random.uniform(0.1, 0.4) * attempt
                if not dropped or attempt == BANNER_ATTEMPTS or time.monotonic() + pause > deadline:
                    raise
                self._fabric.client.close()
                time.sleep(pause)

    def reopen(self, timeout: float) -> None:
        """Replace a connection that broke, or fell silent, by a new one; raises as ``open`` does.

        ``timeout`` in seconds, for this time.
        """
        broken = Connection(self.host, self.settings, self.keyring, self._ssh_config)
        broken._fabric = self._fabric
        # Hanging up a silent connection may take as long as it likes.
        threading.Thread(target=broken.close, daemon=True).start()
        usual = self.settings
        self.settings = replace(usual, connect_timeout=timeout)
        try:
            self.open()
        finally:
            self.settings = usual

    def command(self, command: str) -> Channel:
        """Start a command line on the node; raises ConnectionLost."""
        with _translated(self.host.name):
            channel = self._fabric.transport.open_session(timeout=self.settings.connect_timeout)
            channel.exec_command(command)
        return Channel(self.host.name, channel)

    @property
    def alive(self) -> bool:
        """Whether the connection is there, as far as this side knows."""
        return bool(self._fabric.is_connected)

    def close(self) -> None:
        """Hang up, the jump hosts too."""
        connection = self._fabric
        while isinstance(connection, fabric.Connection):
            with contextlib.suppress(Exception):
                connection.close()
            connection = connection.gateway


def connections(hosts: Sequence[Host], settings: Settings) -> list[Connection]:
    """One connection, not yet open, for each host; ``~/.ssh/config`` and known_hosts are read once.

    Raises UsageError if ``~/.ssh/config`` cannot be understood.
    """
    home = Path.home()
    keyring = Keyring(home)
    ssh_config = paramiko.SSHConfig()
    for path in (home / ".ssh" / "config", Path("/etc/ssh/ssh_config")):
        if path.is_file():
            try:
                ssh_config.parse(with_included(path, path.parent))
            except (OSError, ValueError, paramiko.SSHException) as error:
                raise errors.UsageError(f"{path} cannot be read: {error}", remedy="correct it") from None
    return [Connection(host, settings, keyring, ssh_config) for host in hosts]


def _hop(text: str, where: str) -> Hop:
    hop = parse_hop(text.removeprefix("ssh://").removesuffix("/"))
    if hop is None:
        raise errors.UsageError(f"{where} {text!r}: expected [user@]host[:port]")
    return hop


@contextlib.contextmanager
def _translated(host: str, *, connecting: Connection | None = None) -> Iterator[None]:
    """The door: every exception of Fabric, paramiko and sockets leaves as one of ours."""
    try:
        yield
    except errors.OrchError as error:
        error.host = error.host or host
        raise
    except Exception as error:
        raise translate(error, host, connecting) from error


def translate(error: Exception, host: str, connecting: Connection | None = None) -> errors.OrchError:
    """Our error for one of theirs, while ``connecting`` or on a connection that was there.

    What is none of the network's, a TypeError say, is a bug in orch and becomes a plain OrchError.
    """
    if isinstance(error, (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize)):
        return errors.UsageError(f"~/.ssh/config: {_first_line(error)}", remedy="correct it", host=host)
    if not isinstance(error, (paramiko.SSHException, OSError, EOFError, UnicodeError)):
        return errors.OrchError(f"{type(error).__name__}: {_first_line(error)}", host=host)
    if isinstance(error, paramiko.ChannelException):
        return errors.PreflightError(
            f"its SSH server opens no further session on a connection ({_first_line(error)})",
            remedy="raise MaxSessions in its sshd_config: orch uses three",
            host=host,
        )
    if connecting is None:
        what = f"the connection broke ({_first_line(error)})"
        return errors.ConnectionLost(
            what, remedy="what the node does now is unknown; look with: orch exec", host=host
        )
    known = _authentication_error(error, host, connecting) or _network_error(error, host, connecting)
    if known is not None:
        return known
    what = f"SSH to {connecting.where} failed: {_first_line(error)}"
    return errors.NodeUnreachable(what, remedy=f"try: {connecting.ssh_command}", host=host)


def _authentication_error(error: Exception, host: str, connecting: Connection) -> errors.OrchError | None:
    if isinstance(error, paramiko.BadHostKeyException):
        return _changed(host, fingerprint(error.key), fingerprint(error.expected_key), "known_hosts")
    keyless = "No authentication methods available" in str(error)
    if not isinstance(error, paramiko.AuthenticationException) and not keyless:
        return None
    identity = connecting.host.identity_file
    offered = identity or "the agent's keys and ~/.ssh/id_*"
    allowed = ""
    if isinstance(error, paramiko.BadAuthenticationType):
        allowed = f"; the server allows {', '.join(error.allowed_types)}"
    what = f"{connecting.where} refused the login (offered {offered}{allowed})"
    if keyless:
        what = f"no key to log in to {connecting.where} with"
    # A remedy is meant to be pasted into a shell.
    copy = f"ssh-copy-id {f'-i {shlex.quote(identity)} ' if identity else ''}{connecting.ssh_target}"
    return errors.AuthenticationFailed(what, remedy=f"check user: and identity_file:, or {copy}", host=host)


def _network_error(error: Exception, host: str, connecting: Connection) -> errors.OrchError | None:
    where = connecting.where
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return errors.NameNotResolved(
            f"the name {connecting.address!r} cannot be resolved",
            remedy="correct address: in the inventory, or give a numeric one",
            host=host,
        )
    if isinstance(error, TimeoutError):
        return errors.ConnectTimeout(
            f"{where} did not answer within {connecting.settings.connect_timeout:g} s",
            remedy="is the machine on, the address right, and the SSH port open in its firewall?",
            host=host,
        )
    causes = (
        list(error.errors.values()) if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError) else []
    )
    number = getattr(causes[0] if causes else error, "errno", None)
    if number == errno.ECONNREFUSED:
        remedy = "start sshd there, or set port: for this host"
        return errors.ConnectRefused(
            f"{where} refused the connection: nothing listens there", remedy=remedy, host=host
        )
    if number in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM):
        remedy = "check the address, and that this machine is on a network that leads there"
        return errors.ConnectRefused(f"there is no route to {where}", remedy=remedy, host=host)
    if isinstance(error, EOFError) or "banner" in str(error) or number in (errno.ECONNRESET, errno.EPIPE):
        remedy = "is it an SSH server? if it is busy, raise MaxStartups there or lower --fanout"
        return errors.ConnectRefused(
            f"{where} closed the connection before its SSH banner", remedy=remedy, host=host
        )
    return None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
