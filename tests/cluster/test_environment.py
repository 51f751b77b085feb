"""Environments that orch builds once, on hosts without internet, for runs; and the files that describe them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator.core.launch.environment import flattened, of_pyproject, wheel_platforms
from orchestrator.errors import UsageError
from orchestrator.local.wheels import read_environment
from tests.conftest import Orch
from tests.namespaces import Cluster

REQUIREMENTS = "click>=8  # pure Python\nmarkupsafe>=2  # compiled\n"


@pytest.mark.cluster
def test_an_environment_of_wheels_from_here(orch: Orch, cluster: Cluster) -> None:
    """Hosts without internet get a pure-Python and a compiled package from this machine, and runs use them."""
    (orch.folder / "requirements.txt").write_text(REQUIREMENTS)
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"
    hosts = cluster.hosts_yaml(defaults={"python": python, "environment": "requirements.txt"})
    (orch.folder / "hosts.yaml").write_text(hosts)
    (orch.folder / "show.py").write_text("import click, markupsafe\nprint(markupsafe.__file__)\n")
    doctor = orch("doctor")
    assert "the environment (requirements.txt) is not built yet → build it with orch sync" in doctor.stdout
    # One host has uv, the others pip.
    uv = cluster.hosts[0].home / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("uv") or Path(sys.executable).parent / "uv", uv)
    check = orch("sync", "--check")
    assert check.returncode == 5 and "+ the environment of requirements.txt" in check.stdout
    first = orch("sync", "--offline")
    assert first.returncode == 0, first.stderr
    for host in cluster.hosts:
        assert f"{host.name}: built in" in first.stderr
        assert list((host.home / "orch-work/.orch").glob("wheels/*")) == []
    second = orch("sync")
    assert second.returncode == 0 and "building" not in second.stderr, second.stderr
    (by_uv,) = (cluster.hosts[0].home / "orch-work/.orch/envs").glob("?" * 32 + "/pyvenv.cfg")
    assert "uv = " in by_uv.read_text()
    uv.unlink()
    for host in cluster.hosts:
        (environment,) = (host.home / "orch-work/.orch/envs").glob("?" * 32)
        # torch has gigabytes, so this machine's is used.
        (packages,) = environment.glob("lib/python*/site-packages")
        (packages / "torch.pth").write_text(str(Path(torch.__file__).parent.parent))
    ran = orch("run", "show.py")
    assert ran.stdout.count(f"/.orch/envs/{environment.name}/lib/") == 3, ran.stdout + ran.stderr
    assert "building" not in ran.stderr
    # Pruning keeps the newest environment.
    assert orch("sync", "--prune", "--keep", "1").returncode == 0
    assert environment.is_dir()


@pytest.mark.cluster
def test_a_build_that_fails_leaves_nothing_and_says_why(orch: Orch, cluster: Cluster) -> None:
    (orch.folder / "requirements.txt").write_text("no-such-package-of-orch==9.9\n")
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"
    (orch.folder / "hosts.yaml").write_text(
        cluster.hosts_yaml(defaults={"python": python, "environment": "requirements.txt"})
    )
    before = sorted(path.name for path in (cluster.hosts[0].home / "orch-work/.orch/envs").glob("*"))
    done = orch("sync", "--nodes", "node1")
    assert done.returncode == 5
    assert "no-such-package-of-orch==9.9" in done.stderr
    assert sorted(path.name for path in (cluster.hosts[0].home / "orch-work/.orch/envs").glob("*")) == before


def test_a_requirements_file_with_those_that_it_includes() -> None:
    files = {
        "a/main.txt": "# ours\n-r more.txt\ntorch==2.4 \\\n    --hash=sha256:00\n\nnumpy # fast\n",
        "a/more.txt": "click>=8 ; python_version > '3'\n--extra-index-url x\n",
    }
    assert flattened("a/main.txt", files.__getitem__) == (
        "click>=8 ; python_version > '3'\n--extra-index-url x\ntorch==2.4 --hash=sha256:00\nnumpy"
    )


@pytest.mark.parametrize("line", ["-e .", "./wheel.whl", "/x", "x @ file:///y", "-c limits.txt"])
def test_what_only_this_machine_has_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match=r"main.txt line 2: .* is on this machine only"):
        flattened("main.txt", lambda _: f"numpy\n{line}\n")


def test_the_dependencies_of_a_project() -> None:
    assert of_pyproject("p.toml", '[project]\nname="x"\ndependencies=["a>1", "b"]\n') == "a>1\nb"
    for text, said in (("[project]\n", "no project.dependencies list"), ("[", "is not TOML")):
        with pytest.raises(UsageError, match=said):
            of_pyproject("p.toml", text)


def test_a_lock_file_is_read_with_uv(tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = ["markupsafe==3.0.2"]\n'
    )
    subprocess.run([uv, "lock", "-q"], cwd=tmp_path, check=True)
    found = read_environment(tmp_path / "uv.lock", None)
    assert found.requirements.startswith("markupsafe==3.0.2 --hash=sha256:")
    (tmp_path / "uv.lock").write_text("nonsense")
    with pytest.raises(UsageError, match="uv cannot read"):
        read_environment(tmp_path / "uv.lock", None)


def test_which_wheels_run_on_a_node() -> None:
    found = wheel_platforms("x86_64", "glibc 2.19")
    assert found[:4] == [
        "manylinux_2_19_x86_64",
        "manylinux_2_18_x86_64",
        "manylinux_2_17_x86_64",
        "manylinux2014_x86_64",
    ]
    assert "manylinux_2_5_x86_64" in found and found[-1] == "linux_x86_64"
    assert wheel_platforms("aarch64", "")[0] == "musllinux_1_2_aarch64"
