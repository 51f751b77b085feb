"""The rows of docs/coming-from.md: commands of other launchers, and what each does here.

``tests/unit/cli/test_coming_from.py`` carries out each row.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.cli.launchers import launched

HEADS = {
    "torchrun": "Type `orch run` in place of `torchrun`.",
    "torch.distributed.launch": "Type `orch run` in place of `python -m torch.distributed.launch`.",
    "accelerate": "Type `orch run --launcher accelerate` in place of `accelerate launch`.",
    "deepspeed": "Type `orch run` in place of `deepspeed`.",
}
ROWS = Path(__file__).parent / "coming-from.yaml"


@dataclass(frozen=True)
class Row:
    """A command as its launcher's users type it. ``does``: what orch does, or its answer if it refuses."""

    tool: str
    typed: str
    does: str

    @property
    def exported(self) -> dict[str, str]:
        """The variables that precede the command."""
        return dict(word.split("=", 1) for word in shlex.split(self.typed)[: self._begins])

    @property
    def here(self) -> str:
        """The same command for orch, without the launcher."""
        words = shlex.split(self.typed)
        found = launched(words[self._begins :])
        assert found is not None, self.typed
        return shlex.join([*words[: self._begins], "orch", "run", *found.words])

    @property
    def behind(self) -> str:
        """The command with ``orch run`` before it."""
        words = shlex.split(self.typed)
        return shlex.join([*words[: self._begins], "orch", "run", *words[self._begins :]])

    @property
    def _begins(self) -> int:
        return next(i for i, word in enumerate(shlex.split(self.typed)) if "=" not in word)


def rows() -> list[Row]:
    """Return the rows of the table."""
    return [Row(**each) for each in yaml.safe_load(ROWS.read_text(encoding="utf-8"))]


def as_markdown() -> str:
    """Return a table for each launcher."""
    parts = []
    found = rows()
    for tool in dict.fromkeys(row.tool for row in found):
        parts.append(f"\n## {tool}\n\n{HEADS[tool]}\n\n| command | what orch does |\n| --- | --- |\n")
        parts += [f"| `{_cell(row.typed)}` | {_cell(row.does)} |\n" for row in found if row.tool == tool]
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
