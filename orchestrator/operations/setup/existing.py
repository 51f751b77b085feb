"""Decide what becomes of a hosts file that exists already, and add hosts to it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.inventory.draft.compose import Draft, compose
from orchestrator.core.inventory.draft.insert import with_hosts
from orchestrator.core.inventory.draft.proposal import machine
from orchestrator.errors import Interrupted, InventoryError, UsageError
from orchestrator.local.drafts import own_hosts, parsed_draft, refuse_existing
from orchestrator.operations.setup.gathering import Gathered, Gathering, InitOptions
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions

WAYS = {
    "add": "keep its hosts, and add others",
    "replace": "make it anew; what is in it now is lost",
    "stop": "leave it as it is",
}
FOR_THE_WHOLE_FILE = ("interface", "master", "cluster", "source", "install_torch")


def settled(options: InitOptions, questions: Questions, display: Display) -> InitOptions:
    """Return the options with the user's decision on a file that exists.

    Raises UsageError where nobody can be asked, Interrupted if the file is to stay.
    """
    output = options.output
    if not os.path.lexists(output):
        refuse_existing(output)
        return replace(options, add=False)
    if options.force:
        if options.source is not None and Path(options.source) == output:
            display.note(f"{output} will be written anew: comments of your own in it will be lost")
        return options
    if options.add:
        return _fit_to_add(options)
    if not questions.able:
        refuse_existing(output)
    count, ways = _hosts_in(options, display), dict(WAYS)
    if not count or options.source is not None:
        del ways["add"]
    about = f" ({count} host{'' if count == 1 else 's'})" if count else ""
    match questions.choose(f"{output} exists{about}: what now?", ways, "add" if "add" in ways else "stop"):
        case "add":
            return _fit_to_add(replace(options, add=True))
        case "replace":
            return replace(options, force=True)
    raise Interrupted(f"{output} stays as it is")


def _fit_to_add(options: InitOptions) -> InitOptions:
    given = next((name for name in FOR_THE_WHOLE_FILE if getattr(options, name)), None)
    if given is not None:
        option = {"source": "from"}.get(given, given).replace("_", "-")
        raise UsageError(
            f"--{option} does not go with --add, which adds HOSTS and changes nothing else in {options.output}",
            remedy=f"edit {options.output}, or make it anew with --force",
        )
    return options


def _hosts_in(options: InitOptions, display: Display) -> int:
    """Return how many hosts the file has; 0, after saying why, if none can be added to it."""
    try:
        return len(own_hosts(options.output)[1].hosts)
    except (UsageError, InventoryError) as error:
        display.error(error)
        return 0


@dataclass(frozen=True)
class Addition:
    """A hosts file with further hosts: its new text, and what was gathered. ``note``: what is lost, if any."""

    text: str
    found: Gathered
    note: str = ""


def added(options: InitOptions, questions: Questions, display: Display) -> Addition:
    """Gather hosts, and return the file with them. Raises UsageError, InventoryError, HostErrors."""
    text, known = own_hosts(options.output)
    gathering = Gathering(options, questions, display, known)
    found = gathering.gather()
    new = gathering.new
    comments = {name: machine(found.facts[name]) for name in new if name in found.facts}
    comments |= {name: f"failed its trial: {error.message}" for name, error in found.errors.items()}
    whole = Draft(found.hosts, known.defaults, known.top, comments)
    parsed_draft(whole, options.output.name)
    spliced = with_hosts(text, new, comments)
    if spliced is not None:
        return Addition(spliced, found)
    lost = "its comments are lost" if "#" in text else "its layout changes"
    return Addition(compose(whole), found, f"{options.output} is written anew with all its hosts; {lost}")
