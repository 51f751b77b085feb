"""Sort the words of ``orch run`` and ``orch plan``: which are orch's options, and which go to the workload.

Before ``--``, an option that orch has is orch's wherever it stands. Every other word from the workload's name on
goes to the workload, as does everything after ``--``. Options of torchrun, accelerate and deepspeed become orch's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from orchestrator.cli.foreign import Foreign, foreign
from orchestrator.cli.launchers import Launched, launched, of_module, started
from orchestrator.cli.meaning import suggestion
from orchestrator.errors import UsageError

NUMBER = re.compile(r"-(\d|\.\d)")
MODULE = ("-m", "--module")


@dataclass(frozen=True)
class Grammar:
    """A verb's options: those without a value, those with one, and those that only stand before the workload."""

    flags: frozenset[str]
    values: frozenset[str]
    early: frozenset[str] = frozenset()
    verb: str = "run"

    def has(self, option: str, *, late: bool) -> bool:
        """Return whether the option is orch's; ``late``: it stands after the workload's name."""
        return (option in self.flags or option in self.values) and not (late and option in self.early)

    @property
    def shown(self) -> list[str]:
        """The long options that a suggestion may name."""
        return sorted(each for each in (self.flags | self.values) - self.early if each.startswith("--"))


@dataclass
class Spelled:
    """The words in orch's own spelling.

    ``own``: orch's options. ``module``: the workload is a module. ``workload``: its name, then its words.
    ``notes``: what the user should know. ``late``: options that stood after the workload's name and are orch's.
    ``handed``: options that go to the workload without ``--``. ``typed``: how the user spelled orch's options.
    """

    own: list[str] = field(default_factory=list)
    workload: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    handed: list[str] = field(default_factory=list)
    typed: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The words for a parser that stops at ``--``."""
        return [*self.own, "--", *self.workload]


def dashed(option: str) -> str:
    """Return an option's name with dashes: ``--nproc_per_node`` and ``--nproc-per-node`` are the same."""
    name, equals, value = option.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value


def spelled(words: Sequence[str], grammar: Grammar, workloads: Collection[str] = ()) -> Spelled:
    """Return the words in orch's spelling. ``workloads`` are the names of the bundled ones.

    Raises UsageError for an option that orch does not have before the workload's name, and for an option of
    another launcher that has no meaning here.
    """
    return _Sorter(words, grammar, workloads).sort()


class _Sorter:
    """Takes the words from left to right."""

    def __init__(self, words: Sequence[str], grammar: Grammar, workloads: Collection[str]) -> None:
        self.words = list(words)
        self.grammar = grammar
        self.workloads = workloads
        self.made = Spelled()
        # The value that each of orch's options was first given.
        self.given: dict[str, str] = {}
        # Whether the workload is known, and whether the next bare word is the name of a module.
        self.named = False
        self.module_follows = False

    def sort(self) -> Spelled:
        while self.words:
            word = self.words.pop(0)
            if word == "--":
                self.untouched()
                break
            if not word.startswith("-") or word == "-" or NUMBER.match(word):
                self.bare(word)
            else:
                self.option(word)
        if self.module_follows:
            raise UsageError("-m: no module given", remedy="orch run -m MODULE")
        return self.made

    def untouched(self) -> None:
        """Take the words after ``--``. Raises UsageError if they are another launcher's command line."""
        if not self.named and (found := launched(self.words)):
            raise UsageError(
                f"{found.launcher}: orch starts every rank itself, and reads no launcher's options after --",
                remedy=self.command(*found.words),
            )
        self.made.workload += self.words

    def command(self, *words: str) -> str:
        """Return the command line with ``words`` in place of those that are left, to be copied."""
        return shlex.join(["orch", self.grammar.verb, *self.made.own, *words])

    def drop(self, found: Launched) -> None:
        """Go on without another launcher's name: the words after it are read as if it were not there."""
        self.words = list(found.words)
        self.made.notes.append(
            f"{found.launcher} is not needed: orch starts every rank itself; this is read as: "
            + self.command(*found.words)
        )

    def bare(self, word: str) -> None:
        if not self.named and not self.module_follows:
            if found := launched([word, *self.words]):
                self.drop(found)
                return
            if (script := started([word, *self.words])) is not None:
                raise UsageError(f"{word}: orch starts every rank itself", remedy=self.command(*script))
        if self.module_follows:
            self.made.own += ["--module", word]
            self.module_follows = False
        else:
            self.made.workload.append(word)
        self.named = True

    def option(self, word: str) -> None:
        name, equals, value = dashed(word).partition("=")
        given = value if equals else None
        typed = word.partition("=")[0]
        if name in MODULE and not self.named:
            self.module(given)
        elif self.grammar.has(name, late=self.named) and name not in MODULE:
            self.known(typed, name, given)
        elif (meaning := foreign(name)) is not None and (meaning.anywhere or not self.named):
            self.translate(typed, name, meaning, given)
        elif self.joined(word):
            self.made.own.append(word)
        elif self.named:
            self.made.workload.append(word)
            self.made.handed.append(typed)
        else:
            raise self.early(word)

    def module(self, given: str | None) -> None:
        """Take the module's name, or wait for it: other launchers' ``--module`` is a flag before the name."""
        following = self.words[0] if self.words else ""
        if found := of_module(self.words if given is None else [given, *self.words]):
            self.drop(found)
        elif given is None and following.startswith("-"):
            self.module_follows = True
        else:
            self.made.own += ["--module", self.value("-m", given)]
            self.named = True

    def known(self, typed: str, name: str, given: str | None) -> None:
        if name in self.grammar.flags:
            self.made.typed.setdefault(name, typed)
            self.take(name if given is None else f"{name}={given}")
            return
        value = self.value(typed, given)
        # torchrun's number of nodes chooses as many hosts; its range makes the run elastic.
        counted = name == "--nnodes" and value.isascii() and value.isdigit()
        self.assign(typed, "--nodes" if counted else name, value)

    def assign(self, typed: str, name: str, value: str) -> None:
        """Take an option with its value. Raises UsageError if another spelling has given it another value."""
        before, other = self.made.typed.setdefault(name, typed), self.given.setdefault(name, value)
        if name != "--env" and dashed(before) != dashed(typed) and other != value:
            raise UsageError(
                f"{before} {other} and {typed} {value} contradict each other", remedy="give one of them"
            )
        if name.startswith("--"):
            self.take(f"{name}={value}")
        else:
            self.take(name, value)

    def take(self, *words: str) -> None:
        self.made.own += words
        if self.named:
            self.made.late.append(words[0].partition("=")[0])

    def value(self, name: str, given: str | None) -> str:
        """Return the option's value: the text after ``=``, or the next word."""
        if given is not None:
            return given
        if not self.words or self.words[0] == "--":
            raise UsageError(f"{name}: a value is missing", remedy=f"{name} VALUE")
        return self.words.pop(0)

    def translate(self, typed: str, name: str, meaning: Foreign, given: str | None) -> None:
        value = self.value(typed, given) if meaning.takes and not meaning.answer else (given or "")
        if name.endswith("-rank") and meaning.note and value not in ("", "0"):
            raise UsageError(f"{typed} {value}: {meaning.note}", remedy="run the command once, without it")
        if meaning.answer:
            raise UsageError(f"{typed} is another launcher's option", remedy=meaning.answer)
        if meaning.note:
            self.made.notes.append(f"{typed} is not needed: {meaning.note}")
        elif name == "--gpu-ids" and value == "all":
            self.made.notes.append(f"{typed} all is not needed: orch uses all GPUs of every host")
        else:
            option, *texts = meaning.becomes
            if texts:
                self.assign(typed, option, texts[0].replace("{}", value))
            else:
                self.made.typed.setdefault(option, typed)
                self.take(option)

    def joined(self, word: str) -> bool:
        """Return whether the word is several of orch's short flags in one, ``-dv``."""
        letters = word[1:]
        return (
            not word.startswith("--") and len(letters) > 1 and all(f"-{c}" in self.grammar.flags for c in letters)
        )

    def early(self, word: str) -> UsageError:
        """Return the error for an option that orch does not have and that precedes the workload's name."""
        option, verb = word.partition("=")[0], self.grammar.verb
        said = f"orch has no option {option}"
        near = suggestion(option, self.grammar.shown)
        name = next((each for each in self.words if each in self.workloads or each.endswith(".py")), None)
        if name is None:
            late = f"one of the workload's follows its name: orch {verb} WORKLOAD {option} ..."
            return UsageError(said, remedy=near or late)
        place = self.words.index(name)
        before, after = self.words[:place], self.words[place + 1 :]
        if near:
            # After --, because orch would ask the same again.
            right = self.command(name, *after, *([] if "--" in after else ["--"]), word, *before)
            return UsageError(said, remedy=f"{near} (if it is the workload's: {right})")
        right = self.command(name, word, *before, *after)
        return UsageError(f"{said}; an option of the workload follows its name", remedy=right)
