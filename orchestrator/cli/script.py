"""Compare the options on the command line with those that the workload's script declares."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from orchestrator.cli.foreign import foreign
from orchestrator.cli.meaning import suggestion
from orchestrator.cli.spelling import Spelled, dashed
from orchestrator.errors import UsageError
from orchestrator.operations.run.source import Source, bundled, declared_options

# orch tells every workload its backend, so an option that the bundled ones declare has nothing to add.
SHARED = ("--backend",)
HELPS = ("-h", "--help")


def notes_on_options(found: Spelled, source: Source, known: Collection[str]) -> list[str]:
    """Return notes on options that both orch and the script have, and on options that the script seems to lack.

    ``known``: orch's options. Raises UsageError for an option that a bundled workload lacks: all ranks would fail.
    """
    script = declared_options(source)
    declared = {dashed(option) for option in script.options}
    name = source.workload.name
    ours = name in bundled() and source.root == bundled()[name].parent
    notes = []
    for option in dict.fromkeys(found.late):
        if option in declared and not (ours and option in SHARED):
            notes.append(
                f"{option} is orch's here, and {name} has an option of this name: after --, it is {name}'s"
            )
    for option in dict.fromkeys(found.handed if script.whole else ()):
        if not declared or option in HELPS or _has(declared, dashed(option)):
            continue
        hint = _hint(option, declared, known)
        if ours:
            raise UsageError(f"{name} has no option {option}", remedy=hint or f"{name} has {_listed(declared)}")
        if hint:
            notes.append(f"{option} goes to {name}, which does not seem to have it; {hint}")
    return notes


def _has(declared: Collection[str], option: str) -> bool:
    """Return whether argparse would take the option: by its name, or by an unambiguous beginning of it."""
    return option in declared or (option.startswith("--") and any(each.startswith(option) for each in declared))


def _hint(option: str, declared: Collection[str], known: Collection[str]) -> str | None:
    if near := difflib.get_close_matches(dashed(option), declared, n=1, cutoff=0.75):
        return f"did you mean {near[0]}?"
    meaning = foreign(dashed(option))
    if meaning is not None and meaning.becomes:
        return f"orch's spelling is {' '.join(meaning.becomes).replace('{}', 'VALUE')}"
    return suggestion(option, known)


def _listed(declared: Collection[str]) -> str:
    return ", ".join(sorted(each for each in declared if each.startswith("--")))
