"""Ranks that mpirun starts on three hosts: by Debian's Open MPI, and by the MPICH that a package brings."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Orch
from tests.namespaces import Cluster, require
from tests.namespaces.switch import PATH
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

FAILS = "import os, time\nif os.environ['RANK'] == '2':\n    raise ValueError('two is one too many')\ntime.sleep(600)\n"
SAVES = """
import os, signal, sys, time
def save(*_):
    time.sleep(2)
    open("saved", "w").write(os.environ["RANK"])
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("up", os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"], os.environ["ORCH_NODE"], flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module", params=["Open MPI", "MPICH"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter beside which there is MPICH's mpirun, or none, so that the host's is used."""
    beside = Path(sys.prefix, "bin", "mpirun").exists()
    missing = None
    if request.param == "MPICH" and not beside:
        missing = "MPICH: pip install mpich mpi4py"
    if request.param == "Open MPI" and shutil.which("mpirun", path=PATH) is None:
        missing = "the Debian package openmpi-bin"
    if missing:
        reason = f"the tests of mpirun need {missing}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    if request.param == "MPICH":
        return sys.executable
    folder = tmp_path_factory.mktemp("open-mpi") / "venv"
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts that see the interpreters of ``python``."""
    require()
    with Cluster(3, python=sys.executable, visible=[ROOT, tmp_path_factory.getbasetemp()]) as made:
        yield made


@pytest.fixture
def marked(three: Cluster) -> Callable[[], list[Any]]:
    """A function that returns every process on any host with a run's mark."""
    return lambda: [each for host in three.hosts for each in host.processes() if "ORCH_RUN_ID" in each.environ]


@pytest.fixture
def orch(three: Cluster, python: str, tmp_path: Path, marked: Callable[[], list[Any]]) -> Iterator[Orch]:
    """``orch`` for the three hosts. Stops the runs that a failed test leaves behind."""
    (tmp_path / "hosts.yaml").write_text(three.hosts_yaml(defaults={"python": python}))
    for name, text in (("fails.py", FAILS), ("saves.py", SAVES)):
        (tmp_path / name).write_text(text)
    made = Orch(tmp_path, {**three.control_env(), "PYTHONPATH": str(ROOT)})
    yield made
    if marked():
        made("stop", "--all", "--grace", "0")


def parameters(orch: Orch, name: str) -> Any:
    """Return the trained parameters that a node of the newest run saved."""
    import torch

    saved = torch.load(orch.run_folder() / name / "snapshot.pt", weights_only=True)
    return torch.cat([each.flatten() for each in saved["model"].values()])


@pytest.fixture(scope="module")
def over_gloo() -> dict[str, Any]:
    """The parameters after training over gloo, once it has been done."""
    return {}


def test_ranks_exchange_over_mpi_and_train_to_the_same_parameters_as_over_gloo(
    orch: Orch, over_gloo: dict[str, Any]
) -> None:
    passed = orch("run", "--launcher", "mpirun", "--backend", "mpi", "message-passing")
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert passed.stdout.count("right on all ranks") == 4
    assert passed.stdout.count("received 42.0 from rank 0") == 2
    trained = orch("run", "--launcher", "mpirun", "mpi-ddp", "3", "1")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "World size 3 on node1, node2, node3 (mpi, cpu)" in trained.stdout
    over_mpi = [parameters(orch, name) for name in ("node1", "node3")]
    if not over_gloo:
        ran = orch("run", "--launcher", "mpirun", "multinode", "3", "1")
        assert "World size 3 on node1, node2, node3 (gloo, cpu)" in ran.stdout, ran.stderr
        over_gloo["parameters"] = parameters(orch, "node1")
    expected = over_gloo["parameters"]
    assert len(expected) == 21
    for found in over_mpi:
        assert float((found - expected).abs().max()) < 1e-5


def test_the_first_failure_is_explained_and_nothing_is_left(orch: Orch, marked: Callable[[], list[Any]]) -> None:
    failed = orch("run", "--launcher", "mpirun", "fails.py")
    assert failed.returncode == 1
    assert "failed: rank 2 on node3 ended with exit code 1" in failed.stderr
    assert "cause: ValueError: two is one too many" in failed.stderr
    assert [(each["node"], each["rank"]) for each in orch.events("rank_failed")] == [("node3", 2)]
    assert not marked()


def test_ranks_save_when_they_are_stopped_whoever_does_it(orch: Orch, marked: Callable[[], list[Any]]) -> None:
    def started() -> Any:
        process = orch.popen("run", "--launcher", "mpirun", "--nproc", "2", "saves.py", "--token", "s3cret")
        said = "".join(heard(process, "] up") for _ in range(6))
        ups = sorted(line.partition("] ")[2] for line in said.splitlines() if "] up" in line)
        assert ups == [f"up {rank} {rank % 2} 6 node{rank // 2 + 1}" for rank in range(6)]
        return process

    process = started()
    daemons = [each.argv for each in marked() if "LOCAL_RANK" not in each.environ]
    assert not [argv for argv in daemons if "s3cret" in argv]
    process.send_signal(signal.SIGINT)
    printed = rest(process)
    assert process.returncode == 130, printed
    assert [(orch.run_folder() / f"node{n}" / "saved").exists() for n in (1, 2, 3)] == [True] * 3
    assert not marked()

    process = started()
    process.kill()
    rest(process)
    assert len(marked()) > 6
    assert orch("stop", orch.run_folder().name).returncode == 0
    assert not marked()
