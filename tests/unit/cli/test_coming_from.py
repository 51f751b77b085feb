"""Each row of docs/coming-from.md: a command of another launcher, and what orch makes of it."""

from __future__ import annotations

import re
import shlex

import pytest

from docs.coming_from import Row, rows
from orchestrator.cli.running import plan, run
from orchestrator.errors import OrchError
from tests.unit.cli.commands import parsed, summary

DROPPED = re.compile(r"(.+) is not needed: orch starts every rank itself; this is read as: (orch (?:run|plan) .*)")


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.typed)
def test_a_command_of_another_launcher(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in row.exported.items():
        monkeypatch.setenv(name, value)
    words = shlex.split(row.here)[len(row.exported) :]
    assert words[:2] == ["orch", "run"]
    try:
        does = summary(parsed(words[2:]))
    except OrchError as error:
        does = f"refused: {error}"
    assert does == row.does and "\n" not in does


@pytest.mark.parametrize("command", [run, plan], ids=["run", "plan"])
@pytest.mark.parametrize("row", rows(), ids=lambda row: row.typed)
def test_the_launcher_may_stay_behind_orch_run(row: Row, command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in row.exported.items():
        monkeypatch.setenv(name, value)
    words = shlex.split(row.behind)[len(row.exported) :]
    try:
        found = parsed(words[2:], command)  # type: ignore[arg-type]
        told = DROPPED.fullmatch(found.notes.pop(0))
        does = summary(found)
    except OrchError as error:
        assert row.does == f"refused: {error}"
        return
    assert told is not None and row.typed.endswith(told[1] + row.typed.partition(told[1])[2])
    # The command that the note gives to copy is the row's, without the launcher.
    assert told[2] == shlex.join(["orch", command.name, *shlex.split(row.here)[len(row.exported) + 2 :]])  # type: ignore[attr-defined]
    assert does == row.does


def test_the_table_is_long_enough_to_be_of_use() -> None:
    found = rows()
    assert len(found) >= 40 and len({row.typed for row in found}) == len(found)
    assert {row.tool for row in found} == {"torchrun", "torch.distributed.launch", "accelerate", "deepspeed"}
