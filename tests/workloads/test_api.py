"""The Python API on the embedded cluster: the examples of docs/api.md, the notebook, and errors."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import Cluster, Line, OrchError
from orchestrator.errors import UsageError
from orchestrator.protocol.events import RankFailed
from tests.conftest import ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.S)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The embedded cluster, from a folder of its own."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copy(ROOT / "hosts.yaml", folder)
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(folder))
    patch.chdir(folder)
    with Cluster.from_file("hosts.yaml") as made:
        yield made
    patch.undo()


@pytest.mark.torch
@pytest.mark.parametrize("example", range(len(EXAMPLES)))
def test_the_examples_of_the_page(cluster: Cluster, example: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(EXAMPLES[example], "docs/api.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    if example == 0:
        assert (
            "collecting outputs" in said and "True" in said and "[node1:0] " in said and "'world_size': 2" in said
        )
    else:
        assert "{0: {'rank': 0, 'mean': 5.0}, 1: {'rank': 1, 'mean': 5.0}}" in said


@pytest.mark.torch
def test_a_notebook(cluster: Cluster) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(Path.cwd())}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    values = [output["data"]["text/plain"] for output in shown if output["output_type"] == "execute_result"]
    assert values == [
        "{'node1': b'hello\\n', 'node2': b'hello\\n'}",
        "{0: [0, [0, 1, 4, 9]], 1: [1, [0, 1, 4, 9]]}",
    ]


@pytest.mark.torch
def test_a_function_that_raises_is_explained(cluster: Cluster) -> None:
    def divide(by: int) -> float:
        return 1 / by

    with cluster.run(divide, [0], nproc=1) as run:
        items = list(run)
        result = run.wait()
    assert not result.ok and run.results == {}
    assert run.diagnosis is not None and "ZeroDivisionError" in run.diagnosis.cause
    assert any(isinstance(item, RankFailed) for item in items)
    assert any(isinstance(item, Line) and "ZeroDivisionError" in item.text for item in items)
    assert [each.run_id for each in cluster.runs(everything=True) if each.run_id == run.run_id] == [run.run_id]


@pytest.mark.torch
def test_a_run_is_stopped_when_its_block_is_left(cluster: Cluster) -> None:
    def idle() -> None:
        import time

        print("up", flush=True)
        time.sleep(600)

    with pytest.raises(KeyboardInterrupt), cluster.run(idle) as run:
        for item in run:
            if isinstance(item, Line) and item.text == "up":
                raise KeyboardInterrupt
    assert run.wait(1).stopped_by_user and not run.wait(1).ok and not cluster.runs()


def test_what_the_verbs_say_comes_as_values(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert re.fullmatch("[0-9a-f]{32}", cluster.sync(tmp_path))
    answers = cluster.exec("sh", "-c", "echo $0; exit 3", "$HOME")
    assert {name: (each.exit_code, each.out) for name, each in answers.items()} == dict.fromkeys(
        ("node1", "node2"), (3, b"$HOME\n")
    )
    examined = cluster.doctor()
    assert not examined.unreachable and examined.ok, examined.findings
    assert cluster.plan("hello", nproc=2).world_size == 4
    assert cluster.runs() == []


def test_what_cannot_be_is_one_line(cluster: Cluster) -> None:
    lock = threading.Lock()
    with pytest.raises(UsageError, match="cannot be shipped: TypeError"):
        cluster.run(lambda: lock)
    with pytest.raises(UsageError, match="no workload or script"):
        cluster.run("nothing-of-that-name")
    with pytest.raises(OrchError, match="no host knows a run"):
        cluster.attach("20200101-000000-0000")
