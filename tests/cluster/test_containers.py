"""Ranks in containers of a real podman, on two hosts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Orch
from tests.namespaces import Cluster, NodeHost, images, require
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

IMAGE = "localhost/orch-test:1"
WAITS = """
import os, pathlib, time
print("inside", pathlib.Path("/run/.containerenv").exists(), os.environ["MY_TOKEN"], os.getuid(), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Cluster]:
    """Two hosts with podman."""
    require()
    if reason := images.missing():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    storage = {"SetEnv": f"CONTAINERS_STORAGE_CONF={images.STORAGE_CONF}"}
    with Cluster(2, python=sys.executable, visible=[ROOT], sshd_options=storage) as made:
        for host in made.hosts:
            images.prepare(host)
        yield made


@pytest.fixture
def orch(hosts: Cluster, tmp_path: Path) -> Iterator[Orch]:
    """``orch`` for the two hosts. Stops the runs that a failed test leaves behind."""
    images.write_archive(tmp_path / "image.tar", IMAGE)
    made = Orch(tmp_path, {**hosts.control_env(), "PYTHONPATH": str(ROOT)})
    asking(made, hosts)
    (tmp_path / "waits.py").write_text(WAITS)
    yield made
    if left(hosts):
        made("stop", "--all", "--grace", "0")


def asking(orch: Orch, hosts: Cluster, *, user: str = "root", **container: Any) -> None:
    """Write the hosts file."""
    keys = {"image": "./image.tar", "options": images.options(), "mounts": images.mounts(ROOT), **container}
    text = hosts.hosts_yaml(defaults={"container": keys, "user": user}, grace=2)
    (orch.folder / "hosts.yaml").write_text(text)


def podman(host: NodeHost, *words: str) -> str:
    ran = host.run("podman", *words, env={"CONTAINERS_STORAGE_CONF": images.STORAGE_CONF})
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def left(hosts: Cluster) -> list[Any]:
    """Return what a run has left: marked processes, monitors of containers, and containers."""
    found: list[Any] = []
    for host in hosts.hosts:
        processes = host.processes()
        found += [each for each in processes if "ORCH_RUN_ID" in each.environ or "conmon" in each.argv[0]]
        found += podman(host, "ps", "--all", "--quiet").split()
    return found


def pid_of(host: NodeHost, program: str) -> int:
    """Return the process id, on this machine, of the one process on a host that runs this program."""
    (found,) = [each for each in host.processes() if each.argv and Path(each.argv[0]).name == program]
    return found.pid_outside


def parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def test_train_in_containers(orch: Orch, hosts: Cluster) -> None:
    ran = orch("run", "train", "--dataset", "digits", "--epochs", "2")
    assert ran.returncode == 0, ran.stderr
    assert f"loading {IMAGE} on 2 hosts" in ran.stderr
    assert f"container {IMAGE}, started by podman" in " ".join(ran.stderr.split())
    assert "Parameters are the same on all 2 ranks" in ran.stdout
    folder = orch.run_folder()
    assert [(folder / host.name / "snapshot.pt").is_file() for host in hosts.hosts] == [True, True]
    assert not left(hosts)


def test_whatever_dies_first_a_stop_leaves_nothing(orch: Orch, hosts: Cluster) -> None:
    first, second = hosts.hosts

    def started() -> tuple[Any, str]:
        process = orch.popen("run", "waits.py", "--env", "MY_TOKEN=s3cret")
        said = heard(process, "inside") + heard(process, "inside")
        assert said.count("inside True s3cret 0") == 2, said
        return process, orch.run_folder().name

    process, run_id = started()
    words = [word for host in hosts.hosts for each in host.processes() for word in each.argv]
    assert "MY_TOKEN" in words and not [word for word in words if "s3cret" in word]
    process.kill()
    rest(process)
    # The supervisor is the parent of podman.
    os.kill(parent(pid_of(first, "podman")), signal.SIGKILL)
    os.kill(pid_of(second, "podman"), signal.SIGKILL)
    assert orch("stop", run_id).returncode == 0
    assert not left(hosts)

    process, run_id = started()
    os.kill(pid_of(first, "conmon"), signal.SIGKILL)
    # The ranks go on without their monitor.
    assert orch("stop", run_id).returncode == 0
    rest(process)
    assert process.returncode == 130
    assert not left(hosts)


def test_what_cannot_start_is_one_line(orch: Orch, hosts: Cluster) -> None:
    def refused(code: int, **asked: Any) -> str:
        asking(orch, hosts, **asked)
        ran = orch("run", "waits.py")
        assert ran.returncode == code, ran.stderr
        assert sum("error: " in line for line in ran.stderr.splitlines()) == 1
        return ran.stderr.splitlines()[-1]

    said = refused(5, image="localhost/nothere:1")
    assert said.startswith(
        "error: node[1-2]: the image localhost/nothere:1 is not there, and podman cannot pull it: "
    )
    assert said.endswith(
        "→ correct image:, or name an archive of docker save, which orch sends: image: ./image.tar"
    )
    assert "the image localhost/nothere:1 is not in podman's storage yet → bring it with" in orch("doctor").stdout
    host = hosts.hosts[0]
    absent = next(name for name in ("apptainer", "docker") if host.run("which", name).returncode)
    assert refused(3, image="x", engine=absent) == (
        f"error: node[1-2]: the container engine {absent} is not installed → install podman there, "
        "or set engine: to one that is installed, or leave out container:"
    )
    for host in hosts.hosts:
        host.run("sh", "-c", "echo ada:x:4242:4242::/tmp/ada:/bin/sh >> /etc/passwd; install -d -o 4242 /tmp/ada")
    assert refused(3, user="ada") == (
        "error: node[1-2]: ada has no right to use podman: no subordinate user ids → run there as root: "
        "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ada"
    )
