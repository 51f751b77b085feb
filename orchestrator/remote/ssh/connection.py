"""The SSH connection to a node, made by Fabric.

Fabric handles ``~/.ssh/config``, jump hosts and keys. Two of its defaults are replaced: it accepts any host key
(AutoAddPolicy), and its ``run`` reads fast output slowly, so channels are paramiko's own.
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
from orchestrator.remote.ssh.authentication import KEYS, Login, Refusal, allowed_methods
from orchestrator.remote.ssh.channel import Channel
from orchestrator.remote.ssh.config import config_files, read_config
from orchestrator.remote.ssh.host_keys import HostKeyPolicy, Keyring
from orchestrator.remote.ssh.identities import Identities, find_identities
from orchestrator.remote.ssh.translation import translated

KEEPALIVE = 15
# A busy server drops connections before it sends its banner. These are retried, refusals are not.
BANNER_ATTEMPTS = 4

logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


def _transport(sock: Any, **options: Any) -> paramiko.Transport:
    """Return a transport that prefers AES-GCM: other ciphers need a second pass over the bytes for the MAC."""
    transport = paramiko.Transport(sock, **options)
    preferences = transport.get_security_options()
    preferences.ciphers = sorted(preferences.ciphers, key=lambda cipher: "gcm" not in cipher)
    return transport


class Connection:
    """The single SSH connection to a node; each command is a channel on it."""

    def __init__(self, host: Host, settings: Settings, keyring: Keyring, ssh_config: paramiko.SSHConfig) -> None:
        self.host = host
        self.settings = settings
        self.keyring = keyring
        self._ssh_config = ssh_config
        self._fabric: Any = None
        self.login = KEYS

    def _prepare(self) -> fabric.Connection:
        gateway: fabric.Connection | None = None
        for text in self.host.jump:
            gateway = self._secured(self._made(_hop(text, "jump:"), gateway), None)
        host = Hop(self.host.address, self.host.user, self.host.port)
        return self._secured(self._made(host, gateway), self.host.host_key)

    def _made(
        self, to: Hop, gateway: fabric.Connection | None, through: tuple[str, ...] = ()
    ) -> fabric.Connection:
        """Return a connection through ``gateway``, or through the secured jump hosts of ``~/.ssh/config``.

        Fabric by itself would accept any host key from the config's jump hosts, and dial the last one first.
        """
        # Not shared: a Connection changes its Config while it is made, and other threads make theirs meanwhile.
        # lazy: no fabric.yml is read.
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
                f"~/.ssh/config: ProxyJump of {to.host} leads back to the same host", remedy="remove the loop"
            )
        hops = [_hop(text.strip(), "~/.ssh/config: ProxyJump") for text in named.split(",")]
        # A ProxyJump for every host also applies to the jump host itself.
        if not {hop.host for hop in hops} & {to.host, made.host}:
            for hop in hops:
                gateway = self._secured(self._made(hop, gateway, (*through, to.host)), None)
        made.gateway = gateway
        return made

    def _secured(self, connection: fabric.Connection, pinned: str | None) -> fabric.Connection:
        """Set timeouts and keys, and trust only known_hosts or the key ``pinned`` in the inventory."""
        timeout = self.settings.connect_timeout
        connection.connect_timeout = timeout
        named = connection.ssh_config.get("identityfile", [])
        connection.connect_kwargs = {
            "key_filename": [path for path in named if Path(path).expanduser().is_file()],
            "pkey": self._identity(),
            # As in OpenSSH, a configured identity replaces the default keys; the agent's keys are still offered.
            "look_for_keys": not (self.host.identity_file or named),
            "banner_timeout": timeout,
            "auth_timeout": timeout,
            "channel_timeout": timeout,
            "transport_factory": _transport,
            **self.login.options(_where(connection)),
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
        """Return the key of ``identity_file``; None if there is none, or only an agent can unlock it."""
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
            problem = "no home folder is known for this user"
        except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError):
            problem = "not a private key"
        remedy = "correct identity_file: in the inventory"
        raise errors.AuthenticationFailed(f"identity_file {identity}: {problem}", remedy=remedy)

    @property
    def address(self) -> str:
        """The address dialled: the inventory's, or the one ``~/.ssh/config`` maps it to."""
        return str(self._fabric.host) if self._fabric else self.host.address

    @property
    def ssh_target(self) -> str:
        """The host as arguments for OpenSSH's programs, for remedies."""
        port = f"-p {self._fabric.port} " if self._fabric and self._fabric.port != 22 else ""
        return f"{port}{self._fabric.user}@{self.address}" if self._fabric else self.address

    @property
    def ssh_command(self) -> str:
        """The command with which a user can try the same connection."""
        return f"ssh -v {self.ssh_target}"

    @property
    def where(self) -> str:
        """``user@address:port`` as dialled, for messages."""
        return self.host.address if self._fabric is None else _where(self._fabric)

    @property
    def port(self) -> int:
        """The port dialled."""
        return int(self._fabric.port) if self._fabric else self.host.port or 22

    def prepare(self) -> None:
        """Work out user, port and jump hosts, without connecting. Raises OrchError for wrong settings."""
        with translated(self.host.name, connecting=self):
            self._fabric = self._prepare()

    def open(self, login: Login = KEYS) -> None:
        """Connect, retrying while the server drops the connection. Raises NodeUnreachable with a remedy."""
        self.login = login
        with translated(self.host.name, connecting=self):
            self._fabric = self._prepare()
            self._open_with_retries()
            if not self._fabric.transport.is_authenticated():
                raise paramiko.AuthenticationException("the server asks for more than one proof")
            self._fabric.transport.set_keepalive(KEEPALIVE)

    def refusal(self) -> Refusal:
        """Return which server refused the login, the host's or a jump host's, and which methods it offers."""
        refused = chain = self._fabric
        if refused is None:
            return Refusal(self.where, False, ())
        while isinstance(chain, fabric.Connection):
            if not chain.is_connected or not chain.transport.is_authenticated():
                refused = chain
            chain = chain.gateway
        return Refusal(_where(refused), refused is not self._fabric, allowed_methods(refused.client, refused.user))

    def jump_hosts(self) -> tuple[Host, ...]:
        """Return the jump hosts on the way, the outermost first, as hosts named ``user@host:port``.

        Known once ``prepare`` or ``open`` has been called, whether or not ``open`` succeeded.
        """
        chain: list[fabric.Connection] = []
        while isinstance(
            gateway := getattr(chain[0] if chain else self._fabric, "gateway", None), fabric.Connection
        ):
            chain.insert(0, gateway)
        texts = [_hop_text(each) for each in chain]
        return tuple(
            Host(
                _where(each),
                each.original_host,
                user=each.user,
                port=each.port,
                identity_file=self.host.identity_file,
                jump=tuple(texts[:position]),
            )
            for position, each in enumerate(chain)
        )

    def server_key(self) -> str:
        """Return the host key that was verified for this open connection, as ``type base64``."""
        key = self._fabric.transport.get_remote_server_key()
        return f"{key.get_name()} {key.get_base64()}"

    def identities(self) -> Identities:
        """Return the keys that this machine offers to the host."""
        named = fabric.Config(ssh_config=self._ssh_config, lazy=True).base_ssh_config.lookup(self.host.address)
        own = self.host.identity_file
        return find_identities([own] if own else named.get("identityfile", []), self.keyring)

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
        """Replace a broken or silent connection by a new one. Raises as ``open`` does.

        ``timeout``: time limit of this call, in seconds.
        """
        broken = Connection(self.host, self.settings, self.keyring, self._ssh_config)
        broken._fabric = self._fabric
        # Closing a silent connection may block without a limit.
        threading.Thread(target=broken.close, daemon=True).start()
        usual = self.settings
        self.settings = replace(usual, connect_timeout=timeout)
        try:
            self.open()
        finally:
            self.settings = usual

    def command(self, command: str) -> Channel:
        """Start a command line on the node. Raises ConnectionLost, or PreflightError if no session opens."""
        with translated(self.host.name):
            channel = self._fabric.transport.open_session(timeout=self.settings.connect_timeout)
            channel.exec_command(command)
        return Channel(self.host.name, channel)

    @property
    def alive(self) -> bool:
        """Whether the connection is up, as far as this side knows."""
        return bool(self._fabric.is_connected)

    def close(self) -> None:
        """Close the connection and those to its jump hosts."""
        connection = self._fabric
        while isinstance(connection, fabric.Connection):
            with contextlib.suppress(Exception):
                connection.close()
            connection = connection.gateway


def connections(
    hosts: Sequence[Host], settings: Settings, kind: type[Connection] = Connection
) -> list[Connection]:
    """Return one connection, not yet open, for each host. SSH's config files and known_hosts are read once.

    Raises UsageError if a config file cannot be read.
    """
    home = Path.home()
    keyring = Keyring(home)
    ssh_config = read_config(config_files(home))
    return [kind(host, settings, keyring, ssh_config) for host in hosts]


def _where(connection: Any) -> str:
    return f"{connection.user}@{connection.host}:{connection.port}"


def _hop_text(connection: Any) -> str:
    host = connection.original_host
    return f"{connection.user}@{f'[{host}]' if ':' in host else host}:{connection.port}"


def _hop(text: str, where: str) -> Hop:
    hop = parse_hop(text.removeprefix("ssh://").removesuffix("/"))
    if hop is None:
        raise errors.UsageError(f"{where} {text!r}: expected [user@]host[:port]")
    return hop
