"""Set up logins between nodes: a key on each, which the others accept from its addresses only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.checks.facts import Facts
from orchestrator.core.checks.findings import Examined
from orchestrator.core.checks.pairs import logins as login_findings
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.keys.between import Peer, between_entries
from orchestrator.core.keys.changes import told
from orchestrator.core.launch.addresses import candidates
from orchestrator.errors import OrchError, PreflightError, UsageError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.keys.arranging import Answers, ask_all, change_all
from orchestrator.operations.keys.installing import Logins, fail
from orchestrator.operations.keys.options import KeysOptions
from orchestrator.operations.survey import facts_request, planned_addresses, with_probes
from orchestrator.protocol.keys import AUTHORIZED_KEYS, FILES, ArrangeKeys, FileChange
from orchestrator.remote.node import Node
from orchestrator.remote.probing import ask_facts, hang_up
from orchestrator.remote.ssh.connection import Connection
from orchestrator.ui.display import Display
from orchestrator.ui.keys import show_changes

Entries = Mapping[str, Mapping[str, tuple[str, ...]]]


def link_nodes(opened: OpenCluster, logins: Logins, options: KeysOptions, display: Display) -> None:
    """Show what is to be changed on the nodes, ask, change it, and have every node log in to every other.

    Adds the errors to those of ``logins``.
    """
    links = [logins.links[host.name] for host in opened.hosts if host.name in logins.works]
    if len(links) < 2:
        display.note("logins between nodes need two hosts that a key logs in to")
        return
    nodes = [Node(link) for link in links]
    nothing = ArrangeKeys(entries={}, write=False)
    seen, errors = ask_all(nodes, lambda _: nothing, opened.fanout)
    facts, more = _facts([node for node in nodes if node.name in seen], opened)
    fail(logins, {error.host or "": error for error in (*errors, *more)})
    nodes = [node for node in nodes if node.name in facts]
    hosts = [replace(node.connection.host, port=node.connection.port) for node in nodes]
    changes = _planned(opened, nodes, hosts, facts, seen)
    show_changes(display, [], changes or {node.name: ["nothing to do between nodes"] for node in nodes})
    if options.dry_run:
        return
    if changes:
        if not options.asking.agree("Go on?"):
            raise UsageError("nothing was changed between nodes")
        _change(opened, nodes, hosts, facts, seen, logins, display)
    _check(opened, nodes, hosts, logins, display)


def _facts(nodes: Sequence[Node], opened: OpenCluster) -> tuple[dict[str, Facts], list[OrchError]]:
    requests = {node.name: facts_request(node.connection.host, ()) for node in nodes}
    answers, errors = ask_facts(nodes, requests, opened.fanout)
    hang_up(answers)
    return {name: answer.facts for name, answer in answers.items()}, errors


def _planned(
    opened: OpenCluster, nodes: Sequence[Node], hosts: Sequence[Host], facts: Mapping[str, Facts], seen: Answers
) -> dict[str, tuple[str, ...]]:
    """Return what will change on each node, as far as that is known before all nodes have keys."""
    having = [node for node in nodes if seen[node.name].public is not None]
    lacking = len({seen[node.name].home for node in nodes if node not in having})
    entries = _entries(opened, having, hosts, facts, seen)
    answers, errors = ask_all(
        nodes, lambda name: ArrangeKeys(entries=entries, key="make", write=False), opened.fanout
    )
    if errors:
        raise errors[0]
    found = {}
    for name, answer in answers.items():
        files = dict(answer.files)
        for file in FILES if lacking else ():
            known = files.get(file, FileChange())
            files[file] = known.replace(
                added=known.added + (lacking if file == AUTHORIZED_KEYS else len(nodes) - len(having))
            )
        if files or answer.key_made:
            found[name] = told(answer.replace(files=files), done=False)
    return found


def _change(
    opened: OpenCluster,
    nodes: Sequence[Node],
    hosts: Sequence[Host],
    facts: Mapping[str, Facts],
    seen: Answers,
    logins: Logins,
    display: Display,
) -> None:
    make = ArrangeKeys(entries={}, key="make", write=True)
    made, errors = change_all(nodes, lambda _: make, seen, opened.fanout)
    able = [node for node in nodes if node.name in made]
    entries = _entries(opened, able, hosts, facts, made)
    answers, more = change_all(able, lambda _: ArrangeKeys(entries=entries, write=True), seen, opened.fanout)
    fail(logins, {error.host or "": error for error in (*errors, *more)})
    lines = {
        name: told(answer.replace(key_made=made[name].key_made), done=True) for name, answer in answers.items()
    }
    show_changes(display, [], lines)


def _entries(
    opened: OpenCluster, nodes: Sequence[Node], hosts: Sequence[Host], facts: Mapping[str, Facts], answers: Answers
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the entries of those of the ``nodes`` that have a key."""
    planned = planned_addresses(hosts, facts, opened.inventory.rendezvous.interface)
    peers = []
    for host, node in ((host, node) for host in hosts for node in nodes if node.name == host.name):
        public = answers[node.name].public
        assert public is not None
        peers.append(
            _peer(
                host,
                node.connection,
                facts[host.name],
                public,
                [*([planned[host.name]] if host.name in planned else []), *candidates(host, facts, hosts)],
            )
        )
    return between_entries(opened.inventory.cluster, peers)


def _peer(host: Host, link: Connection, facts: Facts, public: str, addresses: Sequence[str]) -> Peer:
    reached = [*addresses, link.address]
    return Peer(
        name=host.name,
        user=facts.user,
        port=link.port,
        public=public,
        host_key=link.server_key(),
        names=tuple(dict.fromkeys([*reached, host.address, host.name])),
        sources=tuple(dict.fromkeys([*reached, *(each.address for each in facts.addresses)])),
    )


def _check(
    opened: OpenCluster, nodes: Sequence[Node], hosts: Sequence[Host], logins: Logins, display: Display
) -> None:
    """Have every node log in to every other, as ``orch doctor --mesh`` does."""
    requests = {host.name: facts_request(host, ()) for host in hosts}
    with display.stage(f"logging in between {len(nodes)} hosts") as stage:
        answers, errors = ask_facts(nodes, requests, opened.fanout)
        fail(logins, {error.host or "": error for error in errors})
        examined = Examined(
            hosts=tuple(host for host in hosts if host.name in answers),
            facts={name: answer.facts for name, answer in answers.items()},
            port=None,
            backend="auto",
        )
        interface = opened.inventory.rendezvous.interface
        examined = with_probes(examined, answers, interface, thorough=False, mesh=True)
        tried = [word for others in examined.logins.values() for word in others.values()]
        stage.result = f"{tried.count('ok')} of {len(tried)} logins work"
    for finding in login_findings(examined):
        names = ", ".join(finding.nodes)
        logins.errors[names] = PreflightError(finding.what, remedy=finding.remedy, host=names)
