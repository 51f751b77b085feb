"""Compare the options on the command line with those that the workload's script declares."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.cli.foreign import FOREIGN, foreign
from orchestrator.cli.meaning import suggestion
from orchestrator.cli.spelling import Spelled, dashed
from orchestrator.core.launch.declared import ScriptOptions
from orchestrator.core.text.nearest import did_you_mean, nearest
from orchestrator.errors import UsageError
from orchestrator.operations.run.source import Source, bundled, declared_options, text_names

# orch tells every workload its backend, so an option that the bundled ones declare has nothing to add.
SHARED = ("--backend",)
HELPS = ("-h", "--help")
# Other launchers' options that orch takes after the workload's name, too.
TAKEN = tuple(name for name, meaning in FOREIGN.items() if meaning.anywhere)


@dataclass(frozen=True)
class Script:
    """The workload, by its name and source, with the options that it ``declares``. ``ours``: it is bundled."""

    name: str
    source: Source
    declares: ScriptOptions
    ours: bool

    @property
    def options(self) -> frozenset[str]:
        """The declared options, their words separated by dashes."""
        return frozenset(dashed(option) for option in self.declares.options)

    @property
    def all_known(self) -> bool:
        """Whether the script shows which options it takes."""
        return self.declares.whole and bool(self.options)

    def takes(self, option: str) -> bool:
        """Return whether argparse would take the option: by its name, or by an unambiguous beginning of it."""
        option = dashed(option)
        return option in self.options or (
            option.startswith("--") and any(each.startswith(option) for each in self.options)
        )


def notes_on_options(found: Spelled, source: Source, known: Collection[str]) -> list[str]:
    """Return notes on options that both orch and the script have, and on options that the script seems to lack.

    ``known``: orch's options. Raises UsageError for an option that a bundled workload lacks, because all ranks
    would fail, and for one that misspells orch's and that the script does not name.
    """
    name = source.workload.name
    ours = name in bundled() and source.root == bundled()[name].parent
    script = Script(name, source, declared_options(source), ours)
    notes = []
    for option in dict.fromkeys(found.late):
        if option in script.options and not (ours and option in SHARED):
            notes.append(
                f"{option} is orch's here, and {name} has an option of this name: after --, it is {name}'s"
            )
    for option in dict.fromkeys(found.handed):
        if option in HELPS or script.takes(option):
            continue
        hint = _hint(option, script, known)
        if ours and script.all_known:
            raise UsageError(f"{name} has no option {option}", remedy=hint or f"{name} has {_listed(script)}")
        if meant := _misspelt(option, script, known):
            raise UsageError(
                f"neither orch nor {name} has an option {option}",
                remedy=f"{did_you_mean(meant)} (to pass it to {name}, put -- before it)",
            )
        if hint and script.all_known:
            notes.append(f"{option} goes to {name}, which does not seem to have it; {hint}")
    return notes


def _misspelt(option: str, script: Script, known: Collection[str]) -> str | None:
    """Return orch's option that a word for the script misspells; None if it is another, or the script's."""
    meant = nearest(option, [*known, *TAKEN], beginnings=False)
    own = nearest(option, script.options, beginnings=False)
    # orch leaves some of its own words, such as --module, to the script.
    if meant is None or own is not None or dashed(option) in known:
        return None
    return None if text_names(script.source, option, as_option=script.all_known) else meant


def _hint(option: str, script: Script, known: Collection[str]) -> str | None:
    if near := nearest(option, script.options):
        return did_you_mean(near)
    meaning = foreign(dashed(option))
    if meaning is not None and meaning.becomes:
        return f"orch's spelling is {' '.join(meaning.becomes).replace('{}', 'VALUE')}"
    return suggestion(option, known)


def _listed(script: Script) -> str:
    return ", ".join(sorted(each for each in script.options if each.startswith("--")))
