"""The record of a run, written when it starts: ``runs/<run_id>/run.json``. It is enough to repeat the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from orchestrator.core.launch.plan import RunSpec, Workload
from orchestrator.core.text.secret import HIDDEN, masked_words, redacted

VERSION = 1


@dataclass(frozen=True)
class GitState:
    """The commit that a project was at. ``dirty``: files differed from it; ``code.diff`` of the run says how."""

    commit: str
    branch: str | None
    subject: str
    dirty: bool


@dataclass(frozen=True)
class Code:
    """The code of a run. ``root``: the project's folder at that time. ``size``: bytes of its ``files``."""

    tree: str
    root: str
    files: int
    size: int
    git: GitState | None = None


@dataclass(frozen=True)
class Place:
    """The hosts of a run as its user named them: the word of ``--hosts``, and the folder it was typed in.

    The others are values of ``--nodes``, ``--master``, ``--include`` and ``--exclude`` that choose the same hosts
    again, with the same node_rank 0.
    """

    hosts: str
    folder: str
    nodes: str | None = None
    master: str | None = None
    include: str | None = None
    exclude: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """What a run was. ``began``: seconds since the epoch. ``nodes``: in node_rank order.

    ``spec`` and ``options`` hold what the user asked for, as JSON, with secrets masked. ``python``: the
    interpreters, each in a line. ``orch``: the version that started the run.
    """

    run_id: str
    began: float
    name: str | None
    workload: str
    args: tuple[str, ...]
    nodes: tuple[str, ...]
    world_size: int
    place: Place
    code: Code | None
    spec: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    python: tuple[str, ...] = ()
    orch: str = ""
    version: int = VERSION

    @property
    def command(self) -> list[str]:
        """The workload with its arguments."""
        return [self.workload, *self.args]


def masked_spec(spec: RunSpec) -> dict[str, Any]:
    """Return a RunSpec as JSON, with secrets masked."""
    shown = {"env": redacted(spec.env), "local": redacted(spec.local)}
    return {**asdict(spec), **shown, "args": masked_words(spec.args)}


def spec_of(value: Mapping[str, Any]) -> RunSpec:
    """Return the RunSpec of ``masked_spec``, with secrets still masked. Raises ValueError, TypeError, KeyError."""
    known = {each.name for each in fields(RunSpec)}
    found = {name: value[name] for name in value if name in known}
    found["workload"] = Workload(**value["workload"])
    found["args"] = tuple(value["args"])
    found["nnodes"] = tuple(value["nnodes"]) if value.get("nnodes") else None
    return RunSpec(**found)


def hidden(values: Mapping[str, str]) -> list[str]:
    """Return the names of variables whose values, or parts of them, were masked."""
    return [name for name, value in values.items() if HIDDEN in value]


def to_json(record: RunRecord) -> str:
    """Return a record as the text of its file."""
    return json.dumps(asdict(record), indent=2) + "\n"


def from_json(text: str) -> RunRecord:
    """Return the record of a file's text. Raises ValueError, TypeError or KeyError if it is none."""
    value = json.loads(text)
    code = value["code"]
    if code is not None:
        git = code.get("git")
        code = Code(**{**code, "git": None if git is None else GitState(**git)})
    known = {each.name for each in fields(RunRecord)}
    return RunRecord(
        **{
            **{name: value[name] for name in value if name in known},
            "args": tuple(value["args"]),
            "nodes": tuple(value["nodes"]),
            "python": tuple(value.get("python", ())),
            "place": Place(**value["place"]),
            "code": code,
        }
    )


def named_options(words: Sequence[str]) -> dict[str, str]:
    """Return a workload's arguments by name: ``--lr 0.1`` and ``--lr=0.1`` are the same; others by position."""
    found: dict[str, str] = {}
    option = None
    positions = 0
    for word in words:
        name, equals, value = word.partition("=")
        if option is not None and (not word.startswith("-") or word[1:2].isdigit()):
            found[option] = f"{found[option]} {word}".strip()
        elif word.startswith("-") and not word[1:2].isdigit():
            option = None if equals else word
            found[name] = value
        else:
            positions += 1
            found[f"argument {positions}"] = word
    return found
