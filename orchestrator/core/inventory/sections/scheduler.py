"""The key ``scheduler:`` of a hosts file: where jobs are submitted, and what each asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.core.inventory.destination import Hop, parse_hop
from orchestrator.core.inventory.reading import Reader

# The value of ``login:`` for jobs that are submitted on this machine.
LOCAL = "local"
# Options of sbatch that orch sets itself.
OURS = (
    "--nodes",
    "-N",
    "--ntasks",
    "-n",
    "--ntasks-per-node",
    "--output",
    "-o",
    "--array",
    "-a",
    "--wrap",
    "--wait",
)


@dataclass(frozen=True)
class Slurm:
    """Slurm as a scheduler. ``login``: the node to submit at; None for this machine.

    ``nodes``: how many a run gets without ``--nodes``. ``time``: as sbatch takes it. ``options``: further options
    of sbatch, after orch's own. ``workdir``: a folder on a disk that the login node and all nodes share.
    """

    login: Hop | None
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    nodes: int = 1
    gpus_per_node: int | None = None
    options: tuple[str, ...] = ()
    workdir: str = "~/orch-work"


def read_scheduler(reader: Reader, value: Any) -> Slurm | None:
    """Read ``scheduler:``; None if it is invalid, which the reader records."""
    body = reader.mapping(value, "scheduler", ("slurm",))
    if "slurm" not in body:
        reader.problem("scheduler", value, "slurm: with the keys of the cluster")
        return None
    path = "scheduler.slurm"
    readers: dict[str, Callable[[Any, str], Any]] = {
        "login": reader.text,
        "partition": reader.word,
        "account": reader.word,
        "time": lambda given, where: _time(reader, given, where),
        "nodes": reader.integer(1, 10_000),
        "gpus_per_node": reader.integer(0, 1024),
        "options": lambda given, where: _options(reader, given, where),
        "workdir": reader.text,
    }
    keys = reader.mapping(body["slurm"], path, tuple(readers))
    read = {key: reader.take(keys, key, path, readers[key]) for key in keys}
    login = read.pop("login", None)
    if login is None:
        reader.problem(f"{path}.login", keys.get("login"), "user@login[:port], or local")
        return None
    hop = None if login == LOCAL else parse_hop(login)
    if login != LOCAL and hop is None:
        reader.problem(f"{path}.login", login, "user@login[:port], or local")
        return None
    return Slurm(hop, **{key: item for key, item in read.items() if item is not None})


def _time(reader: Reader, value: Any, path: str) -> str | None:
    """Read a time limit. Without quotes, YAML reads 1:30:00 as a number of seconds, and Slurm takes minutes."""
    if isinstance(value, str) and value and all(each.isdigit() or each in "-:" for each in value):
        return value
    reader.problem(path, value, 'a time in quotes: "MINUTES", "HOURS:MINUTES:SECONDS" or "DAYS-HOURS"')
    return None


def _options(reader: Reader, value: Any, path: str) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(each, str) and each.startswith("-") for each in value):
        reader.problem(path, value, 'a list of options of sbatch, each one word, such as ["--qos=long"]')
        return None
    for each in value:
        if each.partition("=")[0] in OURS:
            reader.say(f"{path}: {each}: orch sets this option itself: expected it to be left out")
    return tuple(value)
