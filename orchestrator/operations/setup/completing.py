"""Complete a new hosts file: interpreter, interface and master are proposed from facts, and confirmed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from orchestrator.core.inventory.draft.compose import Draft, hoisted
from orchestrator.core.inventory.draft.proposal import interfaces, interpreters, machine, own_interpreters
from orchestrator.core.inventory.draft.typed import free_name
from orchestrator.core.inventory.hostrange import folded
from orchestrator.errors import AuthenticationFailed, InventoryError, UsageError
from orchestrator.local.drafts import packages_beside, parsed_draft
from orchestrator.operations.setup.gathering import Gathered, InitOptions
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions

# Files that describe an environment, the most exact first.
PACKAGES = ("uv.lock", "requirements.txt", "pyproject.toml")
NEW_PACKAGES = """\
# orch installs these packages on every host before a run.
torch
torchvision
matplotlib
scikit-learn
# For the workload finetune:
# accelerate
# transformers
"""
INTERPRETER_KEYS = {"python", "env", "environment"}


class Completing:
    """Asks for what the hosts do not tell by themselves."""

    def __init__(self, found: Gathered, options: InitOptions, questions: Questions, display: Display) -> None:
        self.found = found
        self.options = options
        self.questions = questions
        self.display = display

    def complete(self) -> Draft:
        """Return the whole file. Raises InventoryError for an option's value that no hosts file may hold."""
        self._interpreter()
        self._interface()
        self._master()
        given = self.options.cluster or self.found.top.get("cluster")
        folder = free_name(self.options.output.resolve().parent.name, ())
        top = {
            "cluster": given or folder,
            **{key: value for key, value in self.found.top.items() if key != "cluster"},
        }
        comments = {name: machine(facts) for name, facts in self.found.facts.items()}
        comments |= {name: f"failed its trial: {error.message}" for name, error in self.found.errors.items()}
        draft = hoisted(Draft(self.found.hosts, self.found.defaults, top, comments))
        parsed_draft(draft, self.options.output.name)
        return draft

    def _interpreter(self) -> None:
        bodies = [self.found.defaults, *self.found.hosts.values()]
        given = any(INTERPRETER_KEYS & set(body) for body in bodies)
        if self.options.install_torch and given:
            raise UsageError("--install-torch: python: or env: is given as well", remedy="leave one of them out")
        if self.options.install_torch:
            self._new_packages()
            return
        if given or not self.found.facts:
            return
        common = interpreters(self.found.facts)
        if common:
            if len(common) > 1 and self.questions.able:
                self.display.note(f"interpreters with torch on every host: {', '.join(common)}")
            self._set(self.found.defaults, "python", "interpreter for training", common[0])
        elif own := own_interpreters(self.found.facts):
            for name, path in own.items():
                self._set(self.found.hosts[name], "python", f"interpreter for training on {name}", path)
        else:
            self._packages()

    def _packages(self) -> None:
        """Ask for a file with packages where no host has torch."""
        usual = next((name for name in PACKAGES if _names_torch(Path(name))), "none")
        self.display.note("no host has an interpreter with torch: orch can install the packages that a file names")
        new = self._new_file()
        question = f"write {new} with torch and torchvision, for orch to install?"
        if usual == "none" and not new.exists() and self.questions.able and self.questions.confirm(question, True):
            self._new_packages()
            return
        while True:
            answer = self.questions.text(f"file with packages ({', '.join(PACKAGES)}, or none)", usual)
            if answer == "none":
                self.display.note(
                    "name a file with packages or an interpreter before orch run: --env FILE, --install-torch or "
                    "--python PATH, or env: or python: in the hosts file"
                )
                return
            try:
                self.found.defaults["env"] = packages_beside(self.options.output, answer)
                return
            except UsageError as error:
                self.display.error(error)

    def _new_file(self) -> Path:
        return self.options.output.with_name("requirements.txt")

    def _new_packages(self) -> None:
        """Have a requirements file written beside the hosts file, unless one with torch is there."""
        file = self._new_file()
        if file.exists() and not _names_torch(file):
            raise UsageError(
                f"--install-torch: {file} exists, and does not name torch", remedy="add a line: torch"
            )
        self.found.defaults["env"] = file.name
        self.found.packages = None if file.exists() else (file, NEW_PACKAGES)

    def _interface(self) -> None:
        given, rendezvous = self.options.interface, dict(self.found.top.get("rendezvous") or {})
        bodies = [self.found.defaults, *self.found.hosts.values()]
        if given is None and ("interface" in rendezvous or any("interface" in body for body in bodies)):
            return
        names: dict[str, str] = {}
        if given is None:
            names = interfaces(parsed_draft(self.found.draft(), self.options.output.name).hosts, self.found.facts)
        if given is None and len(set(names.values())) > 1:
            shown = ", ".join(f"{name} {interface}" for name, interface in names.items())
            if self.questions.confirm(f"use these interfaces: {shown}?", True):
                for name, interface in names.items():
                    self.found.hosts[name]["interface"] = interface
        elif given is not None or names:
            proposed = given or next(iter(names.values()))
            question = "interface that all ranks use (auto: orch finds it at each start)"
            self._set(rendezvous, "interface", question, proposed, sure=given is not None, above="rendezvous")

    def _master(self) -> None:
        # A host that works is the better master; a spare is none.
        regular = [name for name in self.found.hosts if name not in self.found.top.get("spares", ())]
        usual = min(regular or self.found.hosts, key=lambda name: name not in self.found.facts)
        proposed = self.options.master or self.found.top.get("master") or usual
        if len(self.found.hosts) > 1 or self.options.master:
            sure = self.options.master is not None
            self._set(self.found.top, "master", "master, the host with node_rank 0", proposed, sure=sure)

    def _set(
        self, body: dict[str, Any], key: str, question: str, proposed: str, *, sure: bool = False, above: str = ""
    ) -> None:
        """Ask for a value until the file may hold it. ``sure``: the user has given it already.

        ``above``: the top-level key that ``body`` is to be stored under.
        """
        while True:
            body[key] = proposed if sure else self.questions.text(question, proposed)
            if above:
                self.found.top[above] = body
            try:
                parsed_draft(self.found.draft(), self.options.output.name)
                return
            except InventoryError as error:
                if sure or not self.questions.able:
                    raise
                self.display.error(error)


def _names_torch(file: Path) -> bool:
    try:
        return (
            re.search(r"(?m)^[\s\"'-]*(name\s*=\s*[\"'])?torch\b", file.read_text("utf-8", "replace")) is not None
        )
    except OSError:
        return False


def reservations(found: Gathered) -> list[str]:
    """Return a line for the hosts that are written unchecked, and one for those that are left out."""
    total = len(found.hosts) + len(found.dropped)
    groups = [("written unchecked", list(found.errors)), ("left out", found.dropped)]
    return [
        f"{len(names)} of {total} host{'' if total == 1 else 's'} {'is' if len(names) == 1 else 'are'} {what}: "
        f"{folded(names)}"
        for what, names in groups
        if names
    ]


def next_steps(found: Gathered, output: Path) -> list[tuple[str, str]]:
    """Return the commands that come next, each with what it does."""
    where = "" if output == Path("hosts.yaml") else f" --hosts {shlex.quote(str(output))}"
    steps: list[tuple[str, str]] = []
    if any(isinstance(error, AuthenticationFailed) for error in found.errors.values()):
        steps.append((f"orch keys{where}", "install your SSH key on the hosts"))
    if found.errors:
        again = f"orch init --from {shlex.quote(str(output))} --output {shlex.quote(str(output))} --force"
        steps.append((again.replace(" --output hosts.yaml", ""), "try the hosts again, and complete the file"))
    steps.append((f"orch doctor{where}", "check every host and every pair of hosts"))
    steps.append((f"orch run{where} hello-ddp", "train a small model on all hosts"))
    return steps
