"""The live view, drawn for terminals of several sizes."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from orchestrator.core.run.output import NodeSample, Output
from orchestrator.ui.view import Block, View
from tests.history import happened


def drawn(nodes: int, width: int, height: int) -> list[str]:
    """Return the lines of a view in which node2 is lost and the others run."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    names = [f"node{number}" for number in range(1, nodes + 1)]
    view = View("20261121-120000-abcd", "train", 2, names, console)
    for rank, name in enumerate(names):
        view.event(happened(time.time(), "worker", name, {"rank": 2 * rank, "local_rank": 0}))
        view.event(happened(time.time(), "worker", name, {"rank": 2 * rank + 1, "local_rank": 1}))
        view.sample(
            NodeSample(name, 0.5, 8 * 10**9, 64 * 10**9, ((0.9, 10**9, 80 * 10**9), (0.7, 10**9, 80 * 10**9)))
        )
        view.output(Output(name, 2 * rank, 0, "stdout", b"epoch 1\nepoch 2 loss 0.5\n"))
    view.event(happened(time.time(), "node_lost", "node2", {"reason": "no answer for 30 s"}))
    with console.capture() as captured:
        console.print(view)
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("nodes", [3, 64])
def test_it_fits_and_shows_what_matters(nodes: int, width: int) -> None:
    lines = drawn(nodes, width, 24)
    assert all(len(line) <= width for line in lines) and len(lines) <= 13
    assert lines[0].startswith("20261121-120000-abcd  train  attempt 2  00:00:00")
    assert f"{nodes - 1} running" in lines[0] and "1 lost" in lines[0]
    (lost,) = (line for line in lines if line.startswith("node2 "))
    assert "2-3" in lost and "lost" in lost
    first = next(line for line in lines if line.startswith("node1 "))
    assert "50%" in first and "8.0/64 GB" in first and "2x 80%" in first
    assert ("epoch 2 loss 0.5" in first) == (width == 200)
    assert (f"and {nodes - 7} more nodes" in lines) == (nodes == 64)
    assert "Ctrl-C stops the run" in lines[-1]


def test_a_block_of_output_is_printed_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=20, force_terminal=True)
    text = "[bold]not markup[/bold] " + "x" * 50 + "\n\x1b[31mred\x1b[0m\n"
    with console.capture() as captured:
        console.print(Block(text), end="", soft_wrap=True)
    assert captured.get() == text
