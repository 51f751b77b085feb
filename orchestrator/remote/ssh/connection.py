"""The SSH connection of a node, made by Fabric.

Fabric supplies ``~/.ssh/config``, jump hosts and keys. Two of its defaults are overruled: it accepts any
host key (AutoAddPolicy), and its ``run`` reads fast output slowly; channels here are paramiko's own.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.hostkeys import HostKeyEntry

from orchestrator import errors
from orchestrator.core.inventory.destination import Hop, parse_hop
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.remote.ssh.channel import Channel
from orchestrator.remote.ssh.config import with_included
from orchestrator.remote.ssh.host_keys import HostKeyPolicy, Keyring
from orchestrator.remote.ssh.translation import translated

KEEPALIVE = 15
# A server that is full drops connections before its banner; these are retried, refusals are not.
BANNER_ATTEMPTS = 4

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


def _transport(sock: Any, **options: Any) -> paramiko.Transport:
    """A transport that prefers AES-GCM: one pass over the bytes, where others take one for the MAC as well."""
    transport = paramiko.Transport(sock, **options)
    preferences = transport.get_security_options()
    preferences.ciphers = sorted(preferences.ciphers, key=lambda cipher: "gcm" not in cipher)
    return transport


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
        client.set_missing_host_key_policy(HostKeyPolicy(self.host.name, self.settings, self.keyring, wanted))
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
        with translated(self.host.name, connecting=self):
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
        with translated(self.host.name):
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
