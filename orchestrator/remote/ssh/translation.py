"""Translation of the exceptions of Fabric, paramiko and sockets into those of ``errors.py``."""

from __future__ import annotations

import contextlib
import errno
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from orchestrator import errors
from orchestrator.remote.ssh.host_keys import changed, fingerprint

if TYPE_CHECKING:
    from orchestrator.remote.ssh.authentication import Refusal
    from orchestrator.remote.ssh.connection import Connection

# The remedy for a machine that does not answer as an SSH server, the likeliest cause first.
NO_ANSWER = "check the address and the SSH port, that the machine is on, and any VPN or firewall on the way"


@contextlib.contextmanager
def translated(host: str, *, connecting: Connection | None = None) -> Iterator[None]:
    """Re-raise every exception as an OrchError with the host's name; see ``translate``."""
    try:
        yield
    except errors.OrchError as error:
        error.host = error.host or host
        raise
    except Exception as error:
        raise translate(error, host, connecting) from error


def translate(error: Exception, host: str, connecting: Connection | None = None) -> errors.OrchError:
    """Return the OrchError for an exception, raised while ``connecting`` or on an open connection.

    An exception that is not a network error, such as a TypeError, is a bug in orch and becomes a plain OrchError.
    """
    if isinstance(error, (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize)):
        return errors.UsageError(f"~/.ssh/config: {_first_line(error)}", remedy="correct the file", host=host)
    if not isinstance(error, (paramiko.SSHException, OSError, EOFError, UnicodeError)):
        return errors.OrchError(f"{type(error).__name__}: {_first_line(error)}", host=host)
    if isinstance(error, paramiko.ChannelException):
        return errors.PreflightError(
            f"its SSH server opens no further session on a connection ({_first_line(error)})",
            remedy="raise MaxSessions in its sshd_config: orch uses three sessions",
            host=host,
        )
    if connecting is None:
        what = f"the connection broke ({_first_line(error)})"
        return errors.ConnectionLost(
            what, remedy="what the node does now is unknown; check it with: orch exec", host=host
        )
    known = _authentication_error(error, host, connecting) or _network_error(error, host, connecting)
    if known is not None:
        return known
    what = f"SSH to {connecting.where} failed: {_first_line(error)}"
    return errors.NodeUnreachable(what, remedy=f"try: {connecting.ssh_command}", host=host)


def _authentication_error(error: Exception, host: str, connecting: Connection) -> errors.OrchError | None:
    if isinstance(error, paramiko.BadHostKeyException):
        return changed(host, fingerprint(error.key), fingerprint(error.expected_key), "known_hosts")
    keyless = "No authentication methods available" in str(error)
    if not isinstance(error, paramiko.AuthenticationException) and not keyless:
        return None
    refusal = connecting.refusal()
    what, remedy = _refused(error, keyless, refusal, connecting)
    return errors.AuthenticationFailed(
        what, remedy=remedy, host=host, server=refusal.server, takes_passwords=refusal.takes_passwords
    )


def _refused(error: Exception, keyless: bool, refusal: Refusal, connecting: Connection) -> tuple[str, str]:
    """Return what happened when a server refused a login, and the remedy."""
    where = f"the jump host {refusal.server}" if refusal.is_jump else refusal.server
    if refusal.server in connecting.login.passwords:
        return f"{where} refused the password", "check user: and the password, and that the server takes passwords"
    identity = connecting.host.identity_file
    offered = identity or "the agent's keys and ~/.ssh/id_*"
    allowed = f"; the server allows {', '.join(refusal.methods)}" if refusal.methods else ""
    what = f"{where} refused the login (offered {offered}{allowed})"
    if keyless:
        what = f"no private key is available to log in to {where}{allowed}"
    locked = connecting.identities().locked
    if isinstance(error, paramiko.PasswordRequiredException) or (keyless and locked is not None):
        named = locked.source if locked is not None else "the private key"
        what = f"{named} has a passphrase, and no SSH agent holds it: {where} cannot be logged in to"
        return (
            what,
            f"eval $(ssh-agent); ssh-add {shlex.quote(str(Path(named).expanduser()))}" if locked else "ssh-add",
        )
    if refusal.takes_passwords:
        return (
            what,
            "check user: and identity_file:, or install your key, which asks for the password once: orch keys",
        )
    # Users paste remedies into a shell, so the path is quoted.
    copy = f"ssh-copy-id {f'-i {shlex.quote(identity)} ' if identity else ''}{connecting.ssh_target}"
    return what, f"check user: and identity_file:, or run: {copy}"


def _network_error(error: Exception, host: str, connecting: Connection) -> errors.OrchError | None:
    where = connecting.where
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return errors.NameNotResolved(
            f"the name {connecting.address!r} cannot be resolved",
            remedy="correct address: in the inventory, or use a numeric address",
            host=host,
        )
    if isinstance(error, TimeoutError):
        return errors.ConnectTimeout(
            f"{where} did not answer within {connecting.settings.connect_timeout:g} s",
            remedy=NO_ANSWER,
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
        return errors.ConnectRefused(f"there is no route to {where}", remedy=NO_ANSWER, host=host)
    if isinstance(error, EOFError) or "banner" in str(error) or number in (errno.ECONNRESET, errno.EPIPE):
        remedy = f"{NO_ANSWER}; if its SSH server is busy, raise MaxStartups there or lower --fanout"
        return errors.ConnectDropped(
            f"{where} closed the connection before its SSH banner", remedy=remedy, host=host
        )
    return None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
