"""Command lines that begin with another launcher, and the words that ``orch run`` takes in their place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LAUNCHERS = ("torchrun", "deepspeed", "accelerate")
PYTHON = re.compile(r"python(\d+(\.\d+)?)?")
ACCELERATE = ("--launcher", "accelerate")
# Modules that are launchers, with the words that orch needs to start the same.
MODULES: dict[str, tuple[str, ...]] = {
    "torch.distributed.run": (),
    "torch.distributed.launch": (),
    "accelerate.commands.launch": ACCELERATE,
    "accelerate.commands.accelerate_cli": ACCELERATE,
    "deepspeed.launcher.runner": (),
}
# Programs that start processes, and whose own options orch does not read.
STARTERS = [
    "mpirun",
    "mpiexec",
    "horovodrun",
    "srun",
    "sbatch",
    "qsub",
    "bsub",
    "ray",
    "pbsdsh",
    "nohup",
    "tmux",
    "screen",
]


@dataclass(frozen=True)
class Launched:
    """What another launcher would have started. ``launcher``: its words; ``words``: those for ``orch run``."""

    launcher: str
    words: tuple[str, ...]


def launched(words: Sequence[str]) -> Launched | None:
    """Return a command line without its launcher; None if it begins with none that orch reads the options of."""
    name = program(words[0]) if words else ""
    rest = list(words[1:])
    if PYTHON.fullmatch(name):
        # Ranks write without a buffer anyway.
        rest = rest[rest[:1] == ["-u"] :]
        if rest[:1] == ["-m"] and (found := of_module(rest[1:], f"{name} -m")):
            return found
        return Launched(name, tuple(rest))
    if name == "accelerate":
        verb = rest[:1] == ["launch"]
        return Launched("accelerate launch" if verb else name, (*ACCELERATE, *rest[verb:]))
    return Launched(name, tuple(rest)) if name in LAUNCHERS else None


def of_module(words: Sequence[str], before: str = "-m") -> Launched | None:
    """Return the command line of the module ``words[0]`` without it; None if the module is no launcher."""
    if not words or words[0] not in MODULES:
        return None
    module, *rest = words
    if module.endswith("accelerate_cli") and rest[:1] == ["launch"]:
        rest = rest[1:]
    return Launched(f"{before} {module}", (*MODULES[module], *rest))


def started(words: Sequence[str]) -> list[str] | None:
    """Return the script that a starter such as mpirun would have started, and its words; None for no starter."""
    if not words or program(words[0]) not in STARTERS:
        return None
    place = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    return ["SCRIPT"] if place is None else list(words[place:])


def program(word: str) -> str:
    """Return the program that a word calls, by its name or by its path in a folder ``bin``."""
    folder, slash, name = word.rpartition("/")
    return name if not slash or folder.rpartition("/")[2] == "bin" else ""
