"""Code on every node: what is sent or refused, what an interruption leaves, and which tree a run uses."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import breaks
from tests.conftest import ROOT, Orch
from tests.namespaces import Cluster, NodeHost, require
from tests.namespaces.files import NODE_HOME
from tests.waiting import until

pytestmark = pytest.mark.cluster


@pytest.fixture
def project(orch: Orch) -> Path:
    """A project folder with a name of its own in each test, which is also its folder's name on the hosts."""
    folder = orch.folder / orch.folder.name
    folder.mkdir()
    (folder / "pyproject.toml").write_text("")
    return folder


def sync(orch: Orch, project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return orch("sync", "--project", str(project), *words)


def sent(done: subprocess.CompletedProcess[str]) -> int:
    """Return how many bytes a sync says that it sent."""
    assert done.returncode == 0, done.stderr
    if "every host has it" in done.stderr:
        return 0
    found = re.search(r"sent ([\d,]+) bytes", done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


def tree(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.split()[1]


def tree_of(host: NodeHost, project: Path, done: subprocess.CompletedProcess[str]) -> Path:
    """Return the folder that a sync made on a host."""
    return host.home / "orch-work" / project.name / tree(done)


def partials(host: NodeHost) -> list[str]:
    """Return the incomplete files and folders on a host."""
    return [str(path) for path in (host.home / "orch-work").rglob(".part-*")]


def test_only_what_changed_is_sent(orch: Orch, project: Path, cluster: Cluster) -> None:
    for number in range(1000):
        file = project / f"d{number % 20}" / f"f{number}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(os.urandom(20_000))
    first = sync(orch, project)
    assert 20e6 * 3 < sent(first) < 20.5e6 * 3
    assert sent(sync(orch, project)) == 0
    (project / "d3" / "f3").write_bytes(os.urandom(20_000))
    edited = sync(orch, project)
    assert 20_000 * 3 < sent(edited) < 22_000 * 3
    for host in cluster.hosts:
        # The old tree is unchanged and shares its equal files with the new one.
        assert tree_of(host, project, first).joinpath("d3/f3").read_bytes() != (project / "d3" / "f3").read_bytes()
        assert (
            tree_of(host, project, edited).joinpath("d3/f3").read_bytes() == (project / "d3" / "f3").read_bytes()
        )
        assert tree_of(host, project, edited).joinpath("d4/f4").samefile(tree_of(host, project, first) / "d4/f4")
        assert partials(host) == []


def test_whatever_a_folder_may_hold_arrives(orch: Orch, project: Path, cluster: Cluster) -> None:
    deep = project / ("d" * 150) / ("e" * 150)
    deep.mkdir(parents=True)
    (deep / ("n" * 255)).write_text("long")
    for name in ("with space", "new\nline", "ünï", "-rf", "$(x)", "A", "a", ".hidden"):
        (project / name).write_text(name)
    (project / os.fsdecode(b"not\xffutf8")).write_bytes(b"\0\xff")
    (project / "empty").touch()
    (project / "run.sh").write_text("#!/bin/sh\n")
    (project / "run.sh").chmod(0o750)
    (project / "nothing").mkdir()
    (project / "passwd").symlink_to("/etc/passwd")
    (project / "broken").symlink_to("../../nowhere")
    (project / "folder").symlink_to("nothing")
    done = sync(orch, project)
    for host in cluster.hosts:
        there = tree_of(host, project, done)
        names = {path.relative_to(there) for path in there.rglob("*")}
        assert names == {path.relative_to(project) for path in project.rglob("*")}
        for path in project.rglob("*"):
            copy = there / path.relative_to(project)
            assert copy.is_symlink() == path.is_symlink()
            if path.is_symlink():
                assert copy.readlink() == path.readlink()
            elif path.is_file():
                assert copy.read_bytes() == path.read_bytes()
                assert copy.stat().st_mode == path.stat().st_mode
    assert sync(orch, project, "--check").returncode == 0


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_cannot_be_carried_is_refused_by_name(
    orch: Orch, project: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "pipe":
        os.mkfifo(project / "odd")
    elif kind == "device":
        os.mknod(project / "odd", 0o600 | 0o020000, os.makedev(1, 3))
    else:
        with socket.socket(socket.AF_UNIX) as server:
            # Bind by a short name, because a socket's path may have only a hundred bytes.
            monkeypatch.chdir(project)
            server.bind("odd")
            monkeypatch.undo()
    done = sync(orch, project)
    assert done.returncode == 5
    assert "'odd' is not a file, folder or link → leave it out with a line in .orchignore" in done.stderr
    (project / ".orchignore").write_text("odd\n")
    assert sync(orch, project).returncode == 0


def test_differences_are_named_and_nothing_is_written(orch: Orch, project: Path, cluster: Cluster) -> None:
    (project / "same").write_text("same")
    (project / "old").write_text("old")
    (project / "gone").write_text("gone")
    before = sync(orch, project)
    assert sync(orch, project, "--check").stdout == f"node[1-3]: tree {tree(before)}\n"
    (project / "old").write_text("new")
    (project / "gone").unlink()
    (project / "more").write_text("more")
    lines = "  + more (4 bytes)\n  ~ old (3 bytes)\n  - gone\n"
    for words, code in (("--dry-run", 0), ("--check", 5)):
        done = sync(orch, project, words)
        assert (done.returncode, done.stdout) == (code, f"node[1-3]: 3 differences\n{lines}")
    assert [path.name for path in tree_of(cluster.hosts[0], project, before).parent.glob("*.json")] == [
        tree(before) + ".json"
    ]
    after = sync(orch, project)
    # A file changed within a tree is found, and the next tree that needs its bytes gets them anew.
    (tree_of(cluster["node2"], project, after) / "same").write_text("evil")
    done = sync(orch, project, "--check")
    assert done.returncode == 5 and "node2: 1 difference\n  ! same was changed there\n" in done.stdout
    (project / "more").unlink()
    mended = sync(orch, project)
    assert (tree_of(cluster["node2"], project, mended) / "same").read_text() == "same"
    assert sync(orch, project, "--check").returncode == 0


def test_old_trees_go_and_their_blobs_with_them(orch: Orch, project: Path, cluster: Cluster) -> None:
    made = []
    for number in range(4):
        (project / "file").write_text(f"version {number}")
        made.append(sync(orch, project))
    done = sync(orch, project, "--prune", "--keep", "2")
    assert done.returncode == 0 and re.search(r"node.*: removed \d trees, \d+ blobs", done.stdout), (
        done.stdout + done.stderr
    )
    assert [tree_of(cluster.hosts[0], project, each).is_dir() for each in made] == [False, False, True, True]
    assert sync(orch, project, "--check").returncode == 0


def test_a_run_keeps_its_tree(orch: Orch, project: Path, cluster: Cluster) -> None:
    """Neither another push nor pruning changes a run's files; the next run has the new ones."""
    script = (
        "import pathlib, time\nprint('began with', pathlib.Path('which').read_text(), flush=True)\n"
        "while not pathlib.Path('/dev/shm/go').exists(): time.sleep(0.1)\n"
        "print('ended with', pathlib.Path('which').read_text(), pathlib.Path('sub/other').read_text(), flush=True)\n"
    )
    (project / "job.py").write_text(script)
    (project / "sub").mkdir()
    (project / "sub" / "other").write_text("one")
    (project / "which").write_text("one")
    process = orch.popen("run", str(project / "job.py"))
    trees = cluster.hosts[0].home / "orch-work" / project.name
    until(lambda: list(cluster.hosts[0].home.glob("orch-work/runs/*/*/which")), 60)
    first = sorted(path.name for path in trees.iterdir() if path.is_dir())
    (project / "which").write_text("two")
    (project / "sub" / "other").write_text("two")
    assert sync(orch, project).returncode == 0
    (project / "which").write_text("three")
    assert sync(orch, project).returncode == 0
    assert sync(orch, project, "--prune", "--keep", "1").returncode == 0
    assert set(first) <= {path.name for path in trees.iterdir()}
    for host in cluster.hosts:
        host.run("touch", "/dev/shm/go")
    output, _ = process.communicate(timeout=60)
    assert output.count("began with one") == output.count("ended with one one") == 3, output
    again = orch("run", str(project / "job.py"))
    assert again.stdout.count("ended with three two") == 3, again.stdout + again.stderr
    (project / "which").write_text("four")
    refused = orch("run", "--no-sync", str(project / "job.py"))
    assert refused.returncode == 5 and "node[1-3]: lacks tree" in refused.stderr
    for host in cluster.hosts:
        host.run("rm", "/dev/shm/go")


def test_a_full_disk_is_one_line_and_leaves_nothing(orch: Orch, project: Path, cluster: Cluster) -> None:
    host = cluster["node2"]
    host.run("sh", "-c", f"mkdir -p {NODE_HOME}/small && mount -t tmpfs -o size=2m small {NODE_HOME}/small")
    try:
        (project / "big").write_bytes(os.urandom(4_000_000))
        hosts = cluster.hosts_yaml(per_host={"node2": {"workdir": "~/small"}})
        (orch.folder / "hosts.yaml").write_text(hosts)
        done = sync(orch, project)
        assert done.returncode == 5
        assert "node2: [Errno 28] No space left on device" in done.stderr and "orch sync --prune" in done.stderr
        assert "the other 2 of 3 hosts are fine" in done.stderr
        left = host.run("find", f"{NODE_HOME}/small", "-name", ".part-*").stdout
        assert left == ""
        (project / "big").write_bytes(os.urandom(400_000))
        assert sync(orch, project).returncode == 0
    finally:
        host.run("umount", "-l", f"{NODE_HOME}/small")


def test_a_save_is_pushed(orch: Orch, project: Path, cluster: Cluster) -> None:
    (project / "file").write_text("one")
    process = orch.popen("sync", "--project", str(project), "--watch")
    trees = cluster.hosts[2].home / "orch-work" / project.name

    def versions() -> set[str]:
        return {path.read_text() for path in trees.glob("*/file")} if trees.is_dir() else set()

    until(lambda: "one" in versions(), 30)
    until(lambda: (project / "file").write_text("two") and "two" in versions(), 30)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "~ file (3 bytes)" in output


@pytest.fixture(scope="module")
def one_home() -> Iterator[Cluster]:
    """Three hosts that share a home folder, as with NFS."""
    require()
    with Cluster(3, python=sys.executable, visible=[ROOT], shared_home=True) as made:
        yield made


def test_hosts_that_share_a_home_are_written_to_once(one_home: Cluster, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "job.py").write_text("import socket, time\nprint('on', socket.gethostname())\ntime.sleep(2)\n")
    (project / "data").write_bytes(os.urandom(1_000_000))
    (tmp_path / "hosts.yaml").write_text(one_home.hosts_yaml())
    orch = Orch(tmp_path, {**one_home.control_env(), "PYTHONPATH": str(ROOT)})
    done = sync(orch, project, "--data", str(project / "data"))
    assert 1_000_000 < sent(done) < 1_010_000
    assert "to 1 of 3 hosts; 2 share a disk with one of them" in done.stderr
    (received,) = (one_home.hosts[0].home / "orch-work" / "data").iterdir()
    assert received.read_bytes() == (project / "data").read_bytes()
    assert sent(sync(orch, project)) == 0
    # Outside the workdir orch does not know that it is one disk: each host writes, none spoils another's file.
    elsewhere = orch("sync", "--project", str(project), "--data", f"{project / 'data'}:~/elsewhere/data")
    assert elsewhere.returncode == 0, elsewhere.stderr
    (copy,) = (one_home.hosts[0].home / "elsewhere").iterdir()
    assert copy.read_bytes() == (project / "data").read_bytes()
    # A run on each host at the same time, then one on all: their states are kept apart.
    runs = [orch.popen("run", "--nodes", f"node{n}", str(project / "job.py")) for n in (1, 2, 3)]
    for number, process in enumerate(runs, 1):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and f"on node{number}" in output, output
    everywhere = orch("run", str(project / "job.py"))
    assert sorted(re.findall(r"\] on (node\d)", everywhere.stdout)) == ["node1", "node2", "node3"], (
        everywhere.stderr
    )
    states = {path.name for path in (one_home.hosts[0].home / ".orch").iterdir()}
    assert {"lib", "node1", "node2", "node3"} == states


def test_cloned_machines_are_not_taken_for_one(orch: Orch, project: Path, cluster: Cluster) -> None:
    """The disks have one id, but no host sees what another writes."""
    (project / "file").write_text("x")
    for host in cluster.hosts:
        (host.home / "orch-work" / ".orch").mkdir(parents=True, exist_ok=True)
        (host.home / "orch-work" / ".orch" / "id").write_text("cloned")
    done = sync(orch, project)
    assert "to 3 of 3 hosts  " in done.stderr, done.stderr
    for host in cluster.hosts:
        assert (tree_of(host, project, done) / "file").read_text() == "x"


def test_what_breaks_off_is_mended_by_the_next_sync(tmp_path: Path) -> None:
    """Break a sync once in each way, at a random moment; ``python -m benchmarks.breaks`` does so fifty times."""
    require()
    numbers = random.Random(5)
    with Cluster(3) as made:
        env = breaks.prepare(made, tmp_path)
        for kind in breaks.BREAKS:
            breaks.once(made, tmp_path, env, kind, numbers)
