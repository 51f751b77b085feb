"""Set up logins between nodes: a key on each, which the others accept from its addresses only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.checks.facts import Facts
from orchestrator.core.checks.findings import Examined
from orchestrator.core.checks.pairs import logins as login_findings
from orchestrator.core.keys.between import between_entries, peer
from orchestrator.core.keys.changes import told
from orchestrator.core.text.counted import counted
from orchestrator.errors import OrchError, PreflightError, UsageError
from orchestrator.local.own_keys import read_record, write_record
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.keys.arranging import Answers, ask_all, change_all
from orchestrator.operations.keys.installing import Logins, fail
from orchestrator.operations.keys.options import KeysOptions, nothing_changed
from orchestrator.operations.survey import facts_request, planned_addresses, with_probes
from orchestrator.protocol.keys import AUTHORIZED_KEYS, FILES, ArrangeKeys, FileChange
from orchestrator.remote.node import Node
from orchestrator.remote.probing import ask_facts, hang_up
from orchestrator.ui.display import Display
from orchestrator.ui.keys import show_changes

REMEDY = (
    "compare from= in ~/.ssh/authorized_keys with the address that the login comes from (NAT?), and check "
    "PubkeyAuthentication and AllowUsers in the sshd_config"
)


def link_nodes(opened: OpenCluster, logins: Logins, options: KeysOptions, display: Display) -> None:
    """Show what is to be changed on the nodes, ask, change it, and have every node log in to every other.

    Adds the errors to those of ``logins``.
    """
    nodes = [Node(logins.links[host.name]) for host in opened.hosts if host.name in logins.works]
    if len(nodes) < 2:
        display.note("logins between nodes need two hosts that a key logs in to")
        return
    seen, errors = ask_all(nodes, lambda _: ArrangeKeys(entries={}, write=False), opened.fanout)
    facts, more = _facts(nodes, opened)
    mesh = LoginMesh(opened, [node for node in nodes if node.name in seen and node.name in facts], facts)
    fail(logins, _by_host([*errors, *more]))
    changes = mesh.planned(seen)
    show_changes(display, [], changes or {node.name: ["nothing to do between nodes"] for node in mesh.nodes})
    if options.dry_run:
        return
    if changes:
        with nothing_changed("between nodes"):
            if not options.asking.agree("Make these changes?"):
                raise UsageError("nothing was changed between nodes")
        # Recorded first: whatever happens to this process, the undo knows where to look.
        write_record(read_record().with_between(node.connection.where for node in mesh.nodes))
        lines, errors = mesh.change(seen)
        fail(logins, _by_host(errors))
        show_changes(display, [], lines)
    fail(logins, _by_host(mesh.check(display)))


def _facts(nodes: Sequence[Node], opened: OpenCluster) -> tuple[dict[str, Facts], list[OrchError]]:
    requests = {node.name: facts_request(node.connection.host, ()) for node in nodes}
    answers, errors = ask_facts(nodes, requests, opened.fanout)
    hang_up(answers)
    return {name: answer.facts for name, answer in answers.items()}, errors


def _by_host(errors: Sequence[OrchError]) -> dict[str, OrchError | None]:
    return {error.host or "": error for error in errors}


class LoginMesh:
    """Nodes that are to log in to each other, and their facts."""

    def __init__(self, opened: OpenCluster, nodes: Sequence[Node], facts: Mapping[str, Facts]) -> None:
        self.opened = opened
        self.nodes = nodes
        self.facts = {node.name: facts[node.name] for node in nodes}
        # With the ports that ~/.ssh/config may have named.
        self.hosts = [replace(node.connection.host, port=node.connection.port) for node in nodes]
        self.addresses = planned_addresses(self.hosts, self.facts, opened.inventory.rendezvous.interface)

    def planned(self, seen: Answers) -> dict[str, tuple[str, ...]]:
        """Return what will change on each node, as far as that is known before all nodes have keys.

        Raises OrchError if a node does not tell.
        """
        lacking = [node.name for node in self.nodes if seen[node.name].public is None]
        keys = len({seen[name].home for name in lacking})
        request = ArrangeKeys(entries=self._entries(seen), key="make", write=False)
        answers, errors = ask_all(self.nodes, lambda _: request, self.opened.fanout)
        if errors:
            raise errors[0]
        found = {}
        for name, answer in answers.items():
            files = dict(answer.files)
            for file in FILES if lacking else ():
                change = files.get(file, FileChange())
                more = keys if file == AUTHORIZED_KEYS else len(lacking)
                files[file] = change.replace(added=change.added + more)
            if files or answer.key_made:
                found[name] = told(answer.replace(files=files), done=False)
        return found

    def change(self, seen: Answers) -> tuple[dict[str, tuple[str, ...]], list[OrchError]]:
        """Have the nodes make their keys, then tell every node about all. Return the changes, and the errors."""
        fanout = self.opened.fanout
        make = ArrangeKeys(entries={}, key="make", write=True)
        made, errors = change_all(self.nodes, lambda _: make, seen, fanout)
        request = ArrangeKeys(entries=self._entries(made), write=True)
        able = [node for node in self.nodes if node.name in made]
        answers, more = change_all(able, lambda _: request, seen, fanout)
        whole = {name: answer.replace(key_made=made[name].key_made) for name, answer in answers.items()}
        return {name: told(answer, done=True) for name, answer in whole.items()}, [*errors, *more]

    def check(self, display: Display) -> list[OrchError]:
        """Have every node log in to every other, as ``orch doctor --mesh`` does. Return what fails."""
        requests = {host.name: facts_request(host, ()) for host in self.hosts}
        with display.stage(f"logging in between {counted(len(self.nodes), 'host')}") as stage:
            answers, errors = ask_facts(self.nodes, requests, self.opened.fanout)
            hosts = tuple(host for host in self.hosts if host.name in answers)
            facts = {name: answer.facts for name, answer in answers.items()}
            interface = self.opened.inventory.rendezvous.interface
            examined = with_probes(Examined(hosts, facts), answers, interface, thorough=False, mesh=True)
            tried = [word for others in examined.logins.values() for word in others.values()]
            stage.result = f"{tried.count('ok')} of {len(tried)} logins work"
        failed = [PreflightError(each.what, remedy=REMEDY, host=each.where) for each in login_findings(examined)]
        return [*errors, *failed]

    def _entries(self, answers: Answers) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return the entries of the nodes that have a key."""
        peers = []
        for host, node in zip(self.hosts, self.nodes, strict=True):
            answer = answers.get(node.name)
            if answer is None or answer.public is None:
                continue
            link = node.connection
            planned = self.addresses.get(node.name)
            reached_at = [*([planned] if planned else []), link.address]
            peers.append(peer(host, self.facts[node.name], answer.public, link.server_key(), reached_at))
        return between_entries(self.opened.inventory.cluster, peers)
