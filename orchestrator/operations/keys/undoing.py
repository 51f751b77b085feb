"""Take back what ``orch keys`` changed: on the nodes, and the key that it made here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.keys.changes import told
from orchestrator.core.keys.login import blob_of, login_purpose
from orchestrator.errors import AuthenticationFailed, OrchError, UsageError
from orchestrator.local.own_keys import KeyRecord, read_record, remove_key, write_record
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.keys.arranging import ask_all, change_all
from orchestrator.operations.keys.installing import with_identity
from orchestrator.operations.keys.options import KeysOptions, nothing_changed
from orchestrator.operations.keys.reaching import Outcomes, Reaching
from orchestrator.protocol.keys import BETWEEN, ArrangeKeys
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.remote.ssh.connection import Connection, connections
from orchestrator.ui.display import Display
from orchestrator.ui.keys import show_changes


def undo(opened: OpenCluster, options: KeysOptions, display: Display) -> list[OrchError]:
    """Show what is to be taken back, ask, and take it back. Return the errors of hosts.

    With ``--between``, only logins between nodes are undone.
    """
    links = list(connections(with_identity(opened.hosts, options.identity_file), opened.links[0].settings))
    record = read_record()
    if options.dry_run:
        links = _to_ask(links, record, display)
    if not links:
        return []
    display.note(_why(links, record))
    try:
        return _undo(opened, links, record, options, display)
    finally:
        on_all(links, Connection.close)


def _undo(
    opened: OpenCluster, links: list[Connection], record: KeyRecord, options: KeysOptions, display: Display
) -> list[OrchError]:
    reaching = Reaching(opened.fanout, None if options.dry_run else options.asking, display)
    with nothing_changed():
        outcomes = _entered(links, record, reaching)
    jumps = {host.name: host for link in links for host in link.jump_hosts() if host.name in record.servers}
    through = connections(list(jumps.values()), opened.links[0].settings)
    with nothing_changed():
        outcomes.update(_entered(through, record, reaching))
    links += through
    inside = {link.host.name: link for link in links if outcomes.get(link.host.name, KEPT_OUT) is None}
    requests = {name: _request(link, record, options) for name, link in inside.items()}
    nodes = [Node(link) for link in inside.values()]
    seen, silent = ask_all(nodes, requests.__getitem__, opened.fanout)
    errors = [*(error for error in outcomes.values() if error is not None), *silent]
    will = {name: told(answer, done=False) for name, answer in seen.items()}
    changing = [node for node in nodes if will.get(node.name)]
    idle = [link.host.name for link in links if link.host.name not in outcomes or will.get(link.host.name) == ()]
    nothing: dict[str, Sequence[str]] = {name: [NOTHING] for name in idle}
    show_changes(display, [], {**{node.name: will[node.name] for node in changing}, **nothing})
    if options.dry_run:
        return errors
    if changing:
        with nothing_changed():
            if not options.asking.agree("Undo this?"):
                raise UsageError("nothing was changed")
        done, failed = change_all(changing, lambda name: requests[name].replace(write=True), seen, opened.fanout)
        errors += failed
        show_changes(display, [], {name: told(answer, done=True) for name, answer in done.items()})
    bad = {error.host for error in errors}
    clean = [link.where for link in links if link.host.name not in bad]
    if options.between:
        write_record(record.without_between(clean))
    else:
        _forget(record.without_servers(clean), options, display)
    return errors


KEPT_OUT = OrchError("no key logs in, and this machine has no record of a key there")
NOTHING = "nothing to undo"
NO_RECORD = f"{NOTHING}, as far as this machine has recorded"


def _to_ask(links: Sequence[Connection], record: KeyRecord, display: Display) -> list[Connection]:
    """Return the connections to the hosts that the record is about, and say that the others are not asked.

    A host whose settings are wrong is among them: the attempt to connect says what is wrong.
    """
    known = [link for link in links if _recorded(link, record) is not False]
    others = [link.host.name for link in links if link not in known]
    if others:
        show_changes(display, [], {name: [NO_RECORD] for name in others})
        display.note(f"not asked: {folded(others)}; without --dry-run, orch keys --undo looks there, too")
    return known


def _recorded(link: Connection, record: KeyRecord) -> bool | None:
    """Return whether the record has the host, or a jump host on the way; None if the settings are wrong."""
    if not record.servers:
        return False
    try:
        link.prepare()
    except OrchError:
        return None
    return not record.servers.isdisjoint({link.where, *(host.name for host in link.jump_hosts())})


def _why(links: Sequence[Connection], record: KeyRecord) -> str:
    """Return the line that says why hosts are connected to, with nothing known but what was changed from here."""
    known = [link.host.name for link in links if _recorded(link, record)]
    if known:
        return f"connecting, to see what is left of the changes recorded for {folded(known)}"
    return "connecting: this machine has no record of changes there, but the hosts may have one"


def _entered(links: Sequence[Connection], record: KeyRecord, reaching: Reaching) -> Outcomes:
    """Open the connections, with passwords where no key logs in.

    Left out are hosts that refuse all keys and on which this machine has installed none: nothing is to be undone.
    """
    outcomes = reaching.reach(links)
    servers = record.servers
    refused = {name: each for name, each in outcomes.items() if isinstance(each, AuthenticationFailed)}
    strangers = [link for link in links if link.host.name in refused and link.where not in servers]
    for link in strangers:
        del outcomes[link.host.name], refused[link.host.name]
    able = {name: each for name, each in refused.items() if each.takes_passwords}
    if able and reaching.asking is not None:
        outcomes.update(reaching.log_in([link for link in links if link.host.name in able], able))
    return outcomes


def _request(link: Connection, record: KeyRecord, options: KeysOptions) -> ArrangeKeys:
    """Return the request that tells what would be undone on a host."""
    keys = [key for key, there in record.installed.items() if link.where in there]
    own = link.identities().usable
    keys += [own.public] if own is not None and own.public is not None else []
    mine: dict[str, dict[str, tuple[str, ...]]] = {login_purpose(key): {} for key in keys}
    return ArrangeKeys(entries={} if options.between else mine, drop=BETWEEN, key="remove", write=False)


def _forget(record: KeyRecord, options: KeysOptions, display: Display) -> None:
    """Remove the keys that orch made here, and that no host has any more, if the user agrees."""
    for path, public in record.made.items():
        if blob_of(public) in record.installed:
            continue
        if not Path(path).exists():
            record = record.without_made(path)
        elif options.asking.agree(f"Remove {path}, which orch keys made, and which it knows on no host any more?"):
            if remove_key(path, public):
                display.write(f"removed {path}\n")
            else:
                display.note(f"{path} holds another key now, and stays")
            record = record.without_made(path)
    write_record(record)
