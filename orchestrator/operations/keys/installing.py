"""Install the user's key on the hosts where no key opens a connection yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.keys.changes import told
from orchestrator.core.keys.login import Installation, blob_of, login_entries
from orchestrator.errors import AuthenticationFailed, OrchError, UsageError
from orchestrator.local.own_keys import make_key, read_record, write_record
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.keys.arranging import ask_all, change_all
from orchestrator.operations.keys.options import KeysOptions, nothing_changed
from orchestrator.operations.keys.reaching import Outcomes, Reaching, open_all
from orchestrator.protocol.keys import AUTHORIZED_KEYS, ArrangeKeys
from orchestrator.remote.node import Node
from orchestrator.remote.ssh.authentication import Login
from orchestrator.remote.ssh.connection import Connection, connections
from orchestrator.remote.ssh.identities import Identities, Identity
from orchestrator.ui.display import Display
from orchestrator.ui.keys import show_changes


@dataclass
class Logins:
    """How the hosts can be logged in to, by name. Jump hosts that need a key are among them.

    ``hosts``: as the inventory has them, with the key to use. ``links``: the connections, open unless ``errors``
    or ``refused`` has the host. ``installations``: the keys to install. ``refused``: how those hosts among them
    that no key opens refused the keys. ``works``: the hosts that need no key.
    """

    hosts: dict[str, Host]
    links: dict[str, Connection]
    errors: dict[str, OrchError] = field(default_factory=dict)
    installations: dict[str, Installation] = field(default_factory=dict)
    refused: dict[str, AuthenticationFailed] = field(default_factory=dict)
    works: list[str] = field(default_factory=list)

    @property
    def to_make(self) -> list[str]:
        """The files of the keys to make."""
        return list(dict.fromkeys(each.source for each in self.installations.values() if each.public is None))


def survey_logins(opened: OpenCluster, options: KeysOptions, reaching: Reaching, login: Login) -> Logins:
    """Try to log in to every host with keys, and find out which key is to be installed where none works."""
    hosts = with_identity(opened.hosts, options.identity_file)
    settings = opened.links[0].settings
    links = connections([_as_able(host) for host in hosts], settings)
    outcomes = reaching.reach(links, login)
    jumps = with_identity(refusing_jumps(links, outcomes), options.identity_file)
    through = connections([_as_able(host) for host in jumps], settings)
    outcomes.update(reaching.reach(through, login))
    hosts = [*hosts, *jumps]
    known = {link.host.name: link.identities() for link in connections(hosts, settings)}
    found = Logins({host.name: host for host in hosts}, {link.host.name: link for link in (*links, *through)})
    for host in hosts:
        absent = not _exists(host.identity_file)
        way = decided(known[host.name], outcomes[host.name], absent=absent)
        if way is None:
            found.works.append(host.name)
        elif isinstance(way, OrchError):
            found.errors[host.name] = way
            way.host = host.name
        else:
            found.installations[host.name] = way
            if isinstance(outcome := outcomes[host.name], AuthenticationFailed):
                found.refused[host.name] = outcome
    return found


def with_identity(hosts: Sequence[Host], identity_file: str | None) -> list[Host]:
    """Return the hosts with the key that the user named, if any."""
    return [replace(host, identity_file=identity_file) if identity_file else host for host in hosts]


def refusing_jumps(links: Sequence[Connection], outcomes: Outcomes) -> list[Host]:
    """Return the jump hosts that refuse keys, and those behind them, of which nothing is known yet."""
    found: dict[str, Host] = {}
    for link in links:
        outcome = outcomes[link.host.name]
        if not isinstance(outcome, AuthenticationFailed) or not outcome.takes_passwords:
            continue
        chain = link.jump_hosts()
        names = [host.name for host in chain]
        if outcome.server in names:
            found.update((host.name, host) for host in chain[names.index(outcome.server) :])
    return list(found.values())


def _as_able(host: Host) -> Host:
    """Return the host without a key that is not there yet, and so cannot be offered."""
    return host if _exists(host.identity_file) else replace(host, identity_file=None)


def _exists(identity_file: str | None) -> bool:
    try:
        return identity_file is None or Path(identity_file).expanduser().exists()
    except RuntimeError:
        return True  # no home folder: the connection reports it


def decided(keys: Identities, outcome: OrchError | None, *, absent: bool) -> Installation | OrchError | None:
    """Return the key to install on a host, the error that prevents it, or None if there is nothing to do."""
    refused = isinstance(outcome, AuthenticationFailed)
    if outcome is None and not absent:
        return None
    if outcome is not None and not (isinstance(outcome, AuthenticationFailed) and outcome.takes_passwords):
        return outcome
    usable: Identity | None = None if absent else keys.usable
    if usable is None and keys.locked is not None:
        what = f"{keys.locked.source} has a passphrase, and no SSH agent holds it"
        return UsageError(what, remedy=f"ssh-add {keys.locked.source}, or pass --identity-file with another key")
    if usable is None:
        if Path(keys.place).expanduser().exists():
            return UsageError(f"{keys.place} is not a private key", remedy="pass --identity-file with another one")
        return Installation(keys.place, None, refused)
    return Installation(usable.source, usable.public, refused)


def install(opened: OpenCluster, options: KeysOptions, display: Display) -> Logins:
    """Show what is to be installed where, ask, install it, and check that the keys log in alone.

    The hosts' connections in the result are open, with keys, unless the result has an error for the host.
    """
    reaching = Reaching(opened.fanout, None if options.dry_run else options.asking, display)
    login = Login(agent=options.identity_file is None)
    with nothing_changed():
        logins = survey_logins(opened, options, reaching, login)
    if not logins.installations:
        if logins.works:
            show_changes(display, [], {name: [_works()] for name in logins.works})
        return logins
    here = [f"make an ed25519 key without a passphrase, {path}" for path in logins.to_make]
    lines = {name: [each.told] for name, each in logins.installations.items()}
    show_changes(display, here, {**lines, **{name: [_works()] for name in logins.works}})
    if options.dry_run:
        return logins
    with nothing_changed():
        if not options.asking.agree("Make these changes?"):
            raise UsageError("nothing was changed")
        fail(logins, reaching.log_in([logins.links[name] for name in logins.refused], logins.refused))
    if not logins.installations:
        display.note("nothing was changed on the hosts")
    else:
        _install(opened, logins, options, display, login)
    return logins


def _works() -> str:
    return "nothing to do: a key logs in"


def _install(
    opened: OpenCluster,
    logins: Logins,
    options: KeysOptions,
    display: Display,
    login: Login,
) -> None:
    """Install the keys of ``logins``, and move each host to those that work or to the errors."""
    made = {path: make_key(path) for path in logins.to_make}
    record = read_record()
    for path, public in made.items():
        record = record.with_made(str(Path(path).expanduser().absolute()), public)
    write_record(record)
    publics = {name: each.public or made[each.source] for name, each in logins.installations.items()}
    nodes = [Node(logins.links[name]) for name in publics]

    def request(name: str, *, write: bool) -> ArrangeKeys:
        return ArrangeKeys(entries=login_entries(publics[name]), write=write)

    seen, errors = ask_all(nodes, lambda name: request(name, write=False), opened.fanout)
    nodes = [node for node in nodes if node.name in seen]
    answers, more = change_all(nodes, lambda name: request(name, write=True), seen, opened.fanout)
    fail(logins, {error.host or "": error for error in (*errors, *more)})
    for name in answers:
        record = record.with_installed(blob_of(publics[name]), [logins.links[name].where])
    write_record(record)
    _check(opened, logins, login)
    lines = {
        name: [*told(answer, done=True), *(["a key logs in without a password"] if name in logins.works else [])]
        for name, answer in answers.items()
    }
    show_changes(display, [f"made {path}" for path in made], lines)
    if options.identity_file and any(host.identity_file != options.identity_file for host in opened.hosts):
        display.note(
            f"for the other verbs to use it, add to the hosts file: identity_file: {options.identity_file}"
        )


def fail(logins: Logins, outcomes: Mapping[str, OrchError | None]) -> None:
    """Move the hosts with errors from the installations to the errors."""
    for name, error in outcomes.items():
        if error is not None:
            logins.errors[name] = error
            logins.installations.pop(name, None)


def _check(opened: OpenCluster, logins: Logins, login: Login) -> None:
    """Log in to the hosts again, with the keys alone."""
    links = connections([logins.hosts[name] for name in logins.installations], opened.links[0].settings)
    outcomes = open_all(links, opened.fanout, login)
    for link in links:
        name, error = link.host.name, outcomes[link.host.name]
        logins.links[name].close()
        logins.links[name] = link
        if error is None:
            logins.works.append(name)
        elif isinstance(error, AuthenticationFailed):
            logins.errors[name] = AuthenticationFailed(
                f"~/.ssh/{AUTHORIZED_KEYS} has the key now, but {error.server} does not accept it",
                remedy="check PubkeyAuthentication, AuthorizedKeysFile and StrictModes in its sshd_config; "
                "to take the key back: orch keys --undo",
                host=name,
                server=error.server,
            )
        else:
            logins.errors[name] = error
