"""Gather the hosts of a new hosts file: from a user's words or another tool's file, each tried on the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.draft.compose import Draft
from orchestrator.core.inventory.draft.proposal import better_name, summary
from orchestrator.core.inventory.draft.typed import typed_hosts
from orchestrator.core.inventory.hosts import Host, select
from orchestrator.core.inventory.target import Settings
from orchestrator.core.text.counted import counted
from orchestrator.errors import (
    AuthenticationFailed,
    HostErrors,
    HostKeyUnknown,
    InventoryError,
    NameNotResolved,
    OrchError,
    UsageError,
)
from orchestrator.local.drafts import packages_beside, parsed_draft, read_hosts
from orchestrator.operations.setup.trial import Trial, try_hosts
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from orchestrator.ui.inventory.trials import show_failed, show_keys, show_well

Hosts = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class InitOptions:
    """The options of ``orch init``. A value that is None is asked for, or proposed.

    ``words``: hosts as the user types them. ``source``: another tool's file; ``nodes`` selects some of its hosts.
    ``keys``: keys and values for every host. ``failing``: what becomes of hosts that fail their trial: ``keep``,
    ``drop`` or ``stop``. ``fingerprints``: host keys to record without asking. ``check``: try the hosts.
    ``schema``: write the JSON Schema beside the hosts file. ``install_torch``: have orch install torch on the
    hosts, from a requirements file that is written.
    """

    words: tuple[str, ...]
    output: Path
    source: str | None = None
    nodes: str | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)
    interface: str | None = None
    master: str | None = None
    cluster: str | None = None
    failing: str | None = None
    fingerprints: tuple[str, ...] = ()
    check: bool = True
    force: bool = False
    schema: bool = True
    install_torch: bool = False
    settings: Settings = field(default_factory=Settings)
    fanout: int = 64


@dataclass
class Gathered:
    """The hosts so far: their keys by name, the rest of the file, and facts and errors of the hosts tried.

    ``packages``: the file with packages that is to be written, with its text.
    """

    hosts: Hosts = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    errors: dict[str, OrchError] = field(default_factory=dict)
    packages: tuple[Path, str] | None = None

    def draft(self, more: Hosts | None = None) -> Draft:
        """Return the file as it stands, with ``more`` hosts."""
        hosts = {**self.hosts, **(more or {})}
        return Draft(hosts, self.defaults, _fitting(self.top, hosts))


class Gathering:
    """Asks for hosts, or takes them from the options, and tries them."""

    def __init__(self, options: InitOptions, questions: Questions, display: Display) -> None:
        self.options = options
        self.questions = questions
        self.display = display
        self.given = dict(options.keys)
        if "env" in self.given:
            self.given["env"] = packages_beside(options.output, self.given["env"])
        self.found = Gathered(defaults=dict(self.given))
        # The names in the order in which the hosts were given, whatever came of each.
        self._order: list[str] = []
        # The hosts that another tool's file counts and does not name.
        self._lacking: str | None = None

    def gather(self) -> Gathered:
        """Return the hosts. Raises UsageError if there are none, HostErrors if hosts fail and nobody is asked."""
        if self.options.source is not None:
            self._add(self._imported(self.options.source))
        if self.options.words:
            self._add(typed_hosts(" ".join(self.options.words), self.found.hosts), named=True)
        elif self.questions.able and (self._lacking or not self.found.hosts):
            self._ask()
        elif self._lacking:
            raise UsageError(
                f"{self.options.source}: {self._lacking}", remedy="name the hosts as well: orch init HOST..."
            )
        if not self.found.hosts:
            raise UsageError("no hosts given", remedy="orch init HOST..., or orch init --from FILE")
        self.found.hosts = {name: self.found.hosts[name] for name in self._order if name in self.found.hosts}
        self.found.top = _fitting(self.found.top, self.found.hosts)
        return self.found

    def _imported(self, source: str) -> Hosts:
        read = read_hosts(source)
        self._lacking = read.incomplete
        self.display.note(f"{source}: {read.kind}, {counted(len(read.hosts), 'host')}")
        for note in read.notes:
            self.display.note(note)
        # The command line holds for every host.
        given = self.given
        self.found.defaults = {**read.defaults, **given}
        self.found.top = {key: value for key, value in read.top.items() if value is not None}
        hosts = {name: {key: keys[key] for key in keys if key not in given} for name, keys in read.hosts.items()}
        if self.options.nodes is None:
            return hosts
        chosen = {host.name for host in select(parsed_draft(self.found.draft(hosts), source), self.options.nodes)}
        return {name: keys for name, keys in hosts.items() if name in chosen}

    def _ask(self) -> None:
        self.display.note("Type the hosts, one or several on a line; each is tried at once. A host may be")
        self.display.note("a name, user@host:port, an alias of ~/.ssh/config, or a range such as gpu[01-04].")
        while True:
            line = self.questions.text("hosts (an empty line ends)" if self.found.hosts else "hosts")
            if not line and self.found.hosts:
                return
            self._add(self._read(line), named=True)

    def _read(self, line: str) -> Hosts:
        """Return the new hosts of a line; none, after saying why, if the line is wrong."""
        try:
            found = typed_hosts(line, self.found.hosts)
            if found:
                parsed_draft(self.found.draft(found), "hosts")
        except (UsageError, InventoryError) as error:
            self.display.error(error)
            return {}
        return found

    def _add(self, hosts: Hosts, *, named: bool = False) -> None:
        """Try hosts, and add those that work or are to be kept. ``named``: the names come from typed addresses."""
        self._order += [name for name in hosts if name not in self._order]
        if not self.options.check:
            self.found.hosts.update(hosts)
        while hosts and self.options.check:
            hosts = self._settled(hosts, self._tried(hosts), named)

    def _tried(self, hosts: Hosts) -> dict[str, Trial]:
        """Try hosts, and try them again with the unknown keys that the user accepts.

        A jump host's key may be unknown, too, so a host can come up more than once.
        """
        inventory = parsed_draft(self.found.draft(hosts), self.options.source or self.options.output.name)
        new = [host for host in inventory.hosts if host.name in hosts]
        trials = self._once(new, {})
        offered: set[tuple[str, str]] = set()
        while True:
            unknown = {
                name: each.error
                for name, each in trials.items()
                if isinstance(each.error, HostKeyUnknown) and (name, each.error.fingerprint) not in offered
            }
            if not unknown:
                return trials
            offered |= {(name, error.fingerprint) for name, error in unknown.items()}
            accepted = self._accepted(unknown)
            if accepted:
                trials |= self._once([host for host in new if host.name in accepted], accepted)

    def _once(self, hosts: list[Host], accepted: Mapping[str, str]) -> dict[str, Trial]:
        with self.display.stage(f"trying {counted(len(hosts), 'host')}"):
            return try_hosts(hosts, accepted, self.options.settings, self.options.fanout)

    def _accepted(self, unknown: Mapping[str, HostKeyUnknown]) -> dict[str, str]:
        """Return the fingerprints of keys to record, by host: those given beforehand, and those agreed to now."""
        known = self.options.fingerprints
        agreed = {name: error.fingerprint for name, error in unknown.items() if error.fingerprint in known}
        rest = {name: error for name, error in unknown.items() if name not in agreed}
        if not rest or not self.questions.able:
            return agreed
        show_keys(self.display, {name: error.message for name, error in rest.items()})
        answer = "each"
        if len(rest) > 1:
            question = f"record these {len(rest)} keys in ~/.ssh/known_hosts?"
            answer = self.questions.choose(question, ("yes", "no", "each"), "no")
        for name, error in rest.items():
            if answer == "yes" or (answer == "each" and self._recognised(name, error.fingerprint)):
                agreed[name] = error.fingerprint
        return agreed

    def _recognised(self, name: str, fingerprint: str) -> bool:
        """Return whether the user trusts a key, by answering yes or with its fingerprint, as for ``ssh``."""
        question = f"{name}: record this key in ~/.ssh/known_hosts? (yes, no, or the fingerprint)"
        answer = self.questions.text(question, "no")
        return answer.lower() in ("y", "yes") or answer == fingerprint

    def _settled(self, hosts: Hosts, trials: Mapping[str, Trial], named: bool) -> Hosts:
        """Add the hosts that work or are kept; return those to try again. Raises HostErrors."""
        failed = {}
        for name, trial in trials.items():
            if trial.facts is None:
                failed[name] = trial.error or OrchError("gave no answer", host=name)
                continue
            keys, facts = hosts[name], trial.facts
            address = keys.get("address", name)
            taken = [*self.found.hosts, *hosts]
            # The second trial of a host that had only a password finds the name that the first could not ask for.
            best = better_name(name, address, facts, taken) if named or name == address else name
            self._renamed(name, best)
            self.found.hosts[best] = keys if best == name else {"address": address, **keys}
            self.found.facts[best] = facts
            show_well(self.display, best, summary(facts))
        failing = self.options.failing or ("ask" if self.questions.able else "stop")
        if failed and failing == "stop":
            self.display.note("nothing is written; --failing keep or --failing drop goes on without these hosts")
            raise HostErrors(list(failed.values()), len(trials))
        return self._decided(hosts, failed, failing)

    def _renamed(self, name: str, best: str) -> None:
        """Put a host's better name wherever its first one stands."""
        self._order[self._order.index(name)] = best
        top = self.found.top
        if top.get("master") == name:
            top["master"] = best
        if "spares" in top:
            top["spares"] = [best if each == name else each for each in top["spares"]]

    def _decided(self, hosts: Hosts, failed: Mapping[str, OrchError], failing: str) -> Hosts:
        """Keep or drop hosts that failed; return what to try again. Several hosts are one question."""
        show_failed(self.display, failed)
        refused = [isinstance(error, AuthenticationFailed) for error in failed.values()]
        if failing == "ask" and any(refused):
            self.display.note("where a password is all there is: keep the hosts, and run orch keys afterwards")
        if failing == "ask" and len(failed) > 1:
            question = f"what now with these {len(failed)} hosts?"
            usual = "keep" if all(refused) else "each"
            failing = self.questions.choose(question, ("keep", "again", "drop", "each"), usual)
        again: Hosts = {}
        for name, error in failed.items():
            match self._asked(name, error) if failing in ("ask", "each") else failing:
                case "keep":
                    self.found.hosts[name], self.found.errors[name] = hosts[name], error
                case "again":
                    again[name] = hosts[name]
                case "change":
                    again |= self._changed(name)
        return again

    def _asked(self, name: str, error: OrchError) -> str:
        kinds = {AuthenticationFailed: "keep", NameNotResolved: "change"}
        usual = next((what for kind, what in kinds.items() if isinstance(error, kind)), "drop")
        return self.questions.choose(f"{name}: what now?", ("keep", "again", "change", "drop"), usual)

    def _changed(self, name: str) -> Hosts:
        """Return what the user types in place of a host; it takes the host's place in the order."""
        typed = self._read(self.questions.text(f"instead of {name}"))
        place = self._order.index(name)
        self._order[place : place + 1] = [each for each in typed if each not in self._order]
        return typed


def _fitting(top: Mapping[str, Any], hosts: Mapping[str, Any]) -> dict[str, Any]:
    """Return top-level keys without the names of hosts that are not there."""
    found = {key: value for key, value in top.items() if key != "master" or value in hosts}
    if "spares" in found:
        found["spares"] = [name for name in found["spares"] if name in hosts]
    return found
