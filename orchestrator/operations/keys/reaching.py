"""Open connections with the user's help: show new host keys, and ask for passwords."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.inventory.hostrange import folded
from orchestrator.errors import AuthenticationFailed, HostKeyUnknown, OrchError
from orchestrator.operations.keys.options import Asking
from orchestrator.remote.fanout import on_all
from orchestrator.remote.ssh.authentication import KEYS, Login, Password
from orchestrator.remote.ssh.connection import Connection
from orchestrator.ui.display import Display

# By name of the host; None for a connection that is open.
Outcomes = dict[str, OrchError | None]
# Most host keys on the way to a host, and most passwords in a row that no server accepts.
MOST_KEYS, MOST_PASSWORDS = 8, 3
COMPARE = "each host shows its own with: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


def open_all(links: Sequence[Connection], fanout: int, login: Login = KEYS) -> Outcomes:
    """Try to open every connection."""
    outcomes = on_all(links, lambda link: link.open(login), limit=fanout)
    return {link.host.name: outcome for link, outcome in zip(links, outcomes, strict=True)}


class Reaching:
    """Ways to open connections that ask the user. ``asking`` None: nobody is asked, and nothing is recorded."""

    def __init__(self, fanout: int, asking: Asking | None, display: Display) -> None:
        self.fanout = fanout
        self.asking = asking
        self.display = display

    def reach(self, links: Sequence[Connection], login: Login = KEYS) -> Outcomes:
        """Open connections. Show new host keys, and record those that the user accepts."""
        outcomes = open_all(links, self.fanout, login)
        for _ in range(MOST_KEYS):
            unknown = {name: error for name, error in outcomes.items() if isinstance(error, HostKeyUnknown)}
            if not unknown or not self._accepts(unknown):
                break
            wanted = [link for link in links if link.host.name in unknown]
            for link in wanted:
                # This key only: another machine may answer now than when the user saw the fingerprint.
                seen = unknown[link.host.name].fingerprint
                link.settings = replace(link.settings, accept_fingerprint=seen)
            outcomes.update(open_all(wanted, self.fanout, login))
        return outcomes

    def _accepts(self, unknown: Mapping[str, HostKeyUnknown]) -> bool:
        if self.asking is None or self.asking.accept is None:
            return False
        alike: dict[str, list[str]] = {}
        for name, error in unknown.items():
            alike.setdefault(error.message, []).append(name)
        for message, names in alike.items():
            self.display.note(f"{folded(names)}: {message}")
        what = "this host key" if len(alike) == 1 else f"these {len(alike)} host keys"
        return self.asking.accept(f"Record {what} in ~/.ssh/known_hosts? ({COMPARE})")

    def log_in(self, links: Sequence[Connection], refused: Mapping[str, AuthenticationFailed]) -> Outcomes:
        """Open connections with passwords: one for all servers that share it, asked once.

        It is asked again for the servers that refuse it. A jump host is a server as well. ``refused``: how the
        servers refused the keys, by name of the host.
        """
        found: Outcomes = dict(refused)
        passwords: dict[str, Password] = {}
        current: Password | None = None
        fruitless, waiting = 0, list(links)
        while waiting:
            stuck = {link.host.name: _server(found[link.host.name]) for link in waiting}
            fresh = set(stuck.values()) - passwords.keys()
            if current is None or not fresh:
                word = (
                    self._password(waiting, stuck, again=current is not None)
                    if fruitless < MOST_PASSWORDS
                    else None
                )
                if not word:
                    break
                current, fresh = Password(word), set(stuck.values())
            passwords.update(dict.fromkeys(fresh, current))
            # No server is tried twice with the same password: it may lock the account.
            trying = [link for link in waiting if stuck[link.host.name] in fresh]
            new = self.reach(trying, Login(dict(passwords)))
            fruitless = fruitless + 1 if all(_server(new[name]) == stuck[name] for name in new) else 0
            found.update(new)
            waiting = [link for link in waiting if _may_take_password(found[link.host.name], passwords)]
        return found

    def _password(self, links: Sequence[Connection], stuck: Mapping[str, str], *, again: bool) -> str | None:
        assert self.asking is not None
        jumps = sorted({server for link in links if (server := stuck[link.host.name]) != link.where})
        own = [link for link in links if stuck[link.host.name] not in jumps]
        users = sorted({link.where.rpartition("@")[0] for link in own})
        where = [f"{', '.join(users)} on {folded([link.host.name for link in own])}"] if own else []
        where += [f"the jump host {server}" for server in jumps]
        word = "other password" if again else "password"
        return self.asking.password(f"{word} of {', of '.join(where)}")


def _server(outcome: OrchError | None) -> str:
    return outcome.server if isinstance(outcome, AuthenticationFailed) else ""


def _may_take_password(outcome: OrchError | None, tried: Mapping[str, Password]) -> bool:
    return isinstance(outcome, AuthenticationFailed) and (outcome.takes_passwords or outcome.server in tried)
