"""How to log in: with the user's keys, or with a password for a server that accepts no key yet."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import paramiko

# The methods by which a server may ask for a password.
BY_PASSWORD = ("password", "keyboard-interactive")


class Password:
    """A password in memory. No representation shows it."""

    __slots__ = ("_word",)

    def __init__(self, word: str) -> None:
        self._word = word

    def reveal(self) -> str:
        """Return the password, to be handed to the SSH library and nowhere else."""
        return self._word

    def __repr__(self) -> str:
        return "Password(***)"


@dataclass(frozen=True)
class Login:
    """How to log in. ``passwords``: by server, ``user@host:port``; a server without one is offered keys.

    ``agent``: whether to offer the keys of the SSH agent.
    """

    passwords: Mapping[str, Password] = field(default_factory=dict)
    agent: bool = True

    def options(self, server: str) -> dict[str, Any]:
        """Return what paramiko is told beside the usual keys, or in place of them."""
        password = self.passwords.get(server)
        if password is None:
            return {"allow_agent": self.agent}
        # Offering keys as well would use up the attempts that the server allows. paramiko answers
        # keyboard-interactive with the password where the server knows only that. An empty passphrase keeps
        # paramiko from trying the password on private keys.
        alone: dict[str, Any] = {"pkey": None, "key_filename": [], "look_for_keys": False, "allow_agent": False}
        return {**alone, "password": password.reveal(), "passphrase": ""}


KEYS = Login()


@dataclass(frozen=True)
class Refusal:
    """A login that was refused. ``server``: ``user@host:port``; ``is_jump``: of a jump host.

    ``methods``: the ways to log in that the server offers; empty if it did not tell.
    """

    server: str
    is_jump: bool
    methods: tuple[str, ...]

    @property
    def takes_passwords(self) -> bool:
        """Whether the server may accept a password."""
        return any(method in BY_PASSWORD for method in self.methods)


def allowed_methods(client: paramiko.SSHClient, user: str) -> tuple[str, ...]:
    """Ask a server, to which a login has just failed, which methods it offers; none if it does not answer."""
    transport = client.get_transport()
    if transport is None or not transport.is_active() or transport.is_authenticated():
        return ()
    with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
        try:
            transport.auth_none(user)
        except paramiko.BadAuthenticationType as error:
            return tuple(error.allowed_types)
    return ()
