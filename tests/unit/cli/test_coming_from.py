"""Each row of docs/coming-from.md: a command of another launcher, and what orch makes of it."""

from __future__ import annotations

import shlex

import pytest

from docs.coming_from import Row, rows
from orchestrator.errors import OrchError
from tests.unit.cli.commands import parsed, summary


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


def test_the_table_is_long_enough_to_be_of_use() -> None:
    found = rows()
    assert len(found) >= 40 and len({row.typed for row in found}) == len(found)
    assert {row.tool for row in found} == {"torchrun", "torch.distributed.launch", "accelerate", "deepspeed"}
