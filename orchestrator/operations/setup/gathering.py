"""Gather the hosts of a new hosts file: from a user's words or another tool's file, each tried on the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    OrchError,
    UsageError,
)
from orchestrator.local.drafts import packages_beside, parsed_draft, read_hosts
from orchestrator.operations.keys.options import Asking
from orchestrator.operations.setup.failing import Failures
from orchestrator.operations.setup.keying import install_keys
from orchestrator.operations.setup.trial import Trial, told_apart, try_hosts, usual_user
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from orchestrator.ui.inventory.trials import show_keyless, show_keys, show_well

Hosts = dict[str, dict[str, Any]]
HOST_FORMS = "A host is a name, user@host:port, an alias of ~/.ssh/config, or gpu[01-04]."


@dataclass(frozen=True)
class InitOptions:
    """The options of ``orch init``. A value that is None is asked for, or proposed.

    ``words``: hosts as the user types them. ``source``: another tool's file; ``nodes`` selects some of its hosts.
    ``keys``: keys and values for every host. ``failing``: what becomes of hosts that fail their trial: ``keep``,
    ``drop`` or ``stop``. ``fingerprints``: host keys to record without asking. ``check``: try the hosts.
    ``schema``: write the JSON Schema beside the hosts file. ``install_torch``: have orch install torch on the
    hosts, from a requirements file that is written. ``add``: keep the hosts of the file at ``output``, and add to
    it. ``install_keys``: install the user's key on hosts that take only a password, without asking whether to;
    ``asking`` answers the questions that this brings up, None if it is never done.
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
    add: bool = False
    install_keys: bool = False
    asking: Asking | None = None


@dataclass
class Gathered:
    """The hosts so far: their keys by name, the rest of the file, and facts and errors of the hosts tried.

    ``packages``: the file with packages that is to be written, with its text. ``dropped``: the hosts left out.
    """

    hosts: Hosts = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    errors: dict[str, OrchError] = field(default_factory=dict)
    packages: tuple[Path, str] | None = None
    dropped: list[str] = field(default_factory=list)

    def draft(self, more: Hosts | None = None) -> Draft:
        """Return the file as it stands, with ``more`` hosts."""
        hosts = {**self.hosts, **(more or {})}
        return Draft(hosts, self.defaults, _fitting(self.top, hosts))


class Gathering:
    """Asks for hosts, or takes them from the options, and tries them. ``known``: the file to add them to."""

    def __init__(
        self, options: InitOptions, questions: Questions, display: Display, known: Draft | None = None
    ) -> None:
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
        # The hosts that are in the file already, which are not tried.
        self.known = frozenset(known.hosts) if known is not None else frozenset()
        # The hosts whose user was asked whether to install a key.
        self._offered: set[str] = set()
        self._failures = Failures(options.failing or ("ask" if questions.able else "stop"), questions, display)
        if known is not None:
            self.found = Gathered({name: dict(keys) for name, keys in known.hosts.items()}, dict(known.defaults))
            self.found.top = dict(known.top)
            self._order = list(known.hosts)

    def gather(self) -> Gathered:
        """Return the hosts. Raises UsageError if there are none, HostErrors if hosts fail and nobody is asked."""
        if self.options.source is not None:
            self._add(self._imported(self.options.source))
        if self.options.words:
            self._add(typed_hosts(" ".join(self.options.words), self.found.hosts), named=True)
        elif self.questions.able and (self._lacking or not self.new):
            self._ask()
        elif self._lacking:
            raise UsageError(
                f"{self.options.source}: {self._lacking}", remedy="name the hosts as well: orch init HOST..."
            )
        if not self.new and self.found.dropped and self.questions.able:
            self.display.note("no host is left")
            self._ask()
        if not self.new:
            raise self._nothing()
        self.found.hosts = {name: self.found.hosts[name] for name in self._order if name in self.found.hosts}
        self.found.top = _fitting(self.found.top, self.found.hosts)
        return self.found

    @property
    def new(self) -> Hosts:
        """The hosts gathered so far that are not in the hosts file already."""
        return {name: keys for name, keys in self.found.hosts.items() if name not in self.known}

    def _nothing(self) -> UsageError:
        if self.found.dropped:
            return UsageError(
                f"no host is left: {', '.join(self.found.dropped)} failed and were dropped; nothing is written",
                remedy="--failing keep writes hosts unchecked",
            )
        if self.known:
            what = "every host named is in it already" if self.options.words else "no host is named"
            return UsageError(f"nothing to add to {self.options.output}: {what}", remedy="orch init --add HOST...")
        return UsageError("no hosts given", remedy="orch init HOST..., or orch init --from FILE")

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
        user = self.found.defaults.get("user") or usual_user()
        for line in (
            "Type your hosts, separated by spaces or commas; an empty line ends the list.",
            HOST_FORMS,
            f"Without user@: as {user}. Where only a password works, keys are set up next.",
        ):
            self.display.note(line)
        hint = (
            HOST_FORMS,
            "Several: gpu1 gpu2, ubuntu@10.0.0.5:2222. Ctrl-C leaves, and writes nothing.",
        )
        while True:
            line = self.questions.text("hosts (an empty line ends)" if self.new else "hosts", hint=hint)
            if not line and (self.new or self.known):
                return
            if not line:
                self.questions.say("No host yet.", *hint)
            self._add(self._read(line) or {}, named=True)
            if line and not self.new and self.found.dropped:
                self.display.note("no host is left: type hosts again")

    def _read(self, line: str) -> Hosts | None:
        """Return the new hosts of a line; None, after saying why, if the line is wrong."""
        try:
            found = typed_hosts(line, self.found.hosts)
            if found:
                parsed_draft(self.found.draft(found), "hosts")
            elif line:
                self.display.note(f"{line}: in the list already")
        except (UsageError, InventoryError) as error:
            self.display.error(error)
            return None
        return found

    def _add(self, hosts: Hosts, *, named: bool = False) -> None:
        """Try hosts, and add those that work or are to be kept. ``named``: the names come from typed addresses."""
        if self.known:
            # What the options give for every host holds for the new ones only.
            own = {key: given for key, given in self.given.items() if self.found.defaults.get(key) != given}
            hosts = {name: {**own, **keys} for name, keys in hosts.items()}
        self._order += [name for name in hosts if name not in self._order]
        self.found.dropped = [name for name in self.found.dropped if name not in hosts]
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
        what = counted(len(hosts), "host") + (" in parallel" if len(hosts) > 1 else "")
        with self.display.stage(f"trying {what}"):
            return told_apart(try_hosts(hosts, accepted, self.options.settings, self.options.fanout))

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
        again = self._with_keys(hosts, failed)
        if failed and self._failures.failing == "stop":
            self.display.note(_ways_on(failed.values()))
            raise HostErrors(list(failed.values()), len(trials))
        return again | self._decided(hosts, failed)

    def _with_keys(self, hosts: Hosts, failed: dict[str, OrchError]) -> Hosts:
        """Install the user's key where only a password is taken, if the user wants that.

        Return the hosts to try again, and take them out of ``failed``; the error of a host where no key could be
        installed replaces the one that it had. No host is asked about twice.
        """
        keyless = [
            name
            for name, error in failed.items()
            if isinstance(error, AuthenticationFailed) and error.takes_passwords and name not in self._offered
        ]
        asking, wanted = self.options.asking, self.options.install_keys
        if not keyless or asking is None or not (wanted or self.questions.able):
            return {}
        self._offered |= set(keyless)
        show_keyless(self.display, keyless)
        count = "1 host takes" if len(keyless) == 1 else f"{len(keyless)} hosts take"
        if not wanted and not self.questions.confirm(f"{count} only a password: set up keys now?", True):
            return {}
        inventory = parsed_draft(self.found.draft(hosts), self.options.output.name)
        those = [host for host in inventory.hosts if host.name in keyless]
        try:
            errors = install_keys(
                inventory, those, asking, self.options.settings, self.options.fanout, self.display
            )
        except UsageError as error:
            if not self.questions.able:
                raise
            self.display.error(error)
            return {}
        failed |= errors
        again = {name: hosts[name] for name in keyless if name not in errors}
        for name in again:
            del failed[name]
        return again

    def _renamed(self, name: str, best: str) -> None:
        """Put a host's better name wherever its first one stands."""
        self._order[self._order.index(name)] = best
        top = self.found.top
        if top.get("master") == name:
            top["master"] = best
        if "spares" in top:
            top["spares"] = [best if each == name else each for each in top["spares"]]

    def _decided(self, hosts: Hosts, failed: Mapping[str, OrchError]) -> Hosts:
        """Keep or drop hosts that failed; return what to try again."""
        again: Hosts = {}
        for name, decision in (self._failures.decided(failed) if failed else {}).items():
            changed = self._changed(name) if decision == "change" else {}
            if changed is None or decision == "keep":
                self.found.hosts[name], self.found.errors[name] = hosts[name], failed[name]
            elif decision == "again":
                again[name] = hosts[name]
            elif decision == "drop":
                self.found.dropped.append(name)
            again |= changed or {}
        return again

    def _changed(self, name: str) -> Hosts | None:
        """Return what the user types in place of a host, which takes its place in the order; None to keep it."""
        hint = (HOST_FORMS, f"An empty line keeps {name} as it is, unchecked.")
        typed: Hosts | None = None
        while typed is None:
            line = self.questions.text(f"instead of {name}", hint=hint)
            if not line:
                self.display.note(f"nothing typed: {name} is kept as it is, unchecked")
                return None
            typed = self._read(line)
        if not typed:
            self.found.dropped.append(name)
        place = self._order.index(name)
        self._order[place : place + 1] = [each for each in typed if each not in self._order]
        return typed


def _ways_on(errors: Iterable[OrchError]) -> str:
    """Return how to go on where hosts failed and nobody can be asked."""
    keyless = any(isinstance(error, AuthenticationFailed) and error.takes_passwords for error in errors)
    keys = "--keys --password-stdin installs your key on them, " if keyless else ""
    return f"nothing is written; {keys}--failing keep or --failing drop goes on without these hosts"


def _fitting(top: Mapping[str, Any], hosts: Mapping[str, Any]) -> dict[str, Any]:
    """Return top-level keys without the names of hosts that are not there."""
    found = {key: value for key, value in top.items() if key != "master" or value in hosts}
    if "spares" in found:
        found["spares"] = [name for name in found["spares"] if name in hosts]
    return found
