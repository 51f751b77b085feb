"""Data on every node: passed on by nodes, sent around a firewall, resumed after a break; MNIST downloaded once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import DATA, Orch
from tests.namespaces import Cluster, NodeHost
from tests.waiting import until

pytestmark = pytest.mark.cluster

SIZE = 24_000_000


@pytest.fixture
def big(orch: Orch) -> Path:
    """A file under a name of its own in orch's folder, which holds no other data and no project."""
    (orch.folder / ".orchignore").write_text("*\n")
    file = orch.folder / f"{orch.folder.name}.bin"
    file.write_bytes(os.urandom(SIZE))
    return file


def there(host: NodeHost, name: str) -> Path:
    return host.home / "orch-work" / "data" / name


def parts(host: NodeHost) -> list[Path]:
    return list((host.home / "orch-work").rglob(".orch-*.part"))


def sent(orch: Orch, cluster: Cluster, *words: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """Run a sync; return how it ended and how many bytes went over this machine's link to the hosts."""

    def counter() -> int:
        return int(Path("/sys/class/net", cluster.switch.uplink, "statistics/tx_bytes").read_text())

    before = counter()
    done = orch("sync", *words)
    return done, counter() - before


def test_a_file_is_sent_once_and_passed_on(orch: Orch, cluster: Cluster, big: Path) -> None:
    done, size = sent(orch, cluster, "--data", big.name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"{big.name} is on 3 hosts, 24.0 MB each\n")
    assert SIZE < size < 1.2 * SIZE
    for host in cluster.hosts:
        assert there(host, big.name).read_bytes() == big.read_bytes()
        assert parts(host) == []
    done, size = sent(orch, cluster, "--data", big.name)
    assert done.returncode == 0 and size < 200_000
    assert orch("sync", "--check", "--data", big.name).returncode == 0
    # Damage the file but keep its size: its changed time makes the node read it again.
    with there(cluster.hosts[1], big.name).open("r+b") as file:
        file.write(b"damaged")
    check = orch("sync", "--check", "--data", big.name)
    assert check.returncode == 5 and f"node2: 1 difference\n  + {big.name} of {big.name}\n" in check.stdout
    done, _ = sent(orch, cluster, "--data", big.name)
    assert done.returncode == 0
    assert there(cluster.hosts[1], big.name).read_bytes() == big.read_bytes()


def test_a_folder_goes_where_it_is_told(orch: Orch, cluster: Cluster, big: Path) -> None:
    folder = orch.folder / "set"
    for name in ("a/one", "a/b/two words", "empty", "new\nline"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name if name != "empty" else "")
    (folder / "link").symlink_to("a/one")
    (folder / "hollow").mkdir()
    hosts = cluster.hosts_yaml(data=[{"path": "set", "to": "~/elsewhere/set"}])
    (orch.folder / "hosts.yaml").write_text(hosts)
    done = orch("sync", "--rate", "100M")
    assert done.returncode == 0, done.stderr
    for host in cluster.hosts:
        copy = host.home / "elsewhere" / "set"
        names = {path.relative_to(copy) for path in copy.rglob("*")}
        assert names == {path.relative_to(folder) for path in folder.rglob("*")}
        assert (copy / "a/b/two words").read_text() == "a/b/two words"
        assert (copy / "link").readlink() == Path("a/one")
    # A link on the way leads out of the folder: nothing is written through it.
    (cluster.hosts[1].home / "elsewhere" / "set" / "a" / "b" / "two words").unlink()
    (cluster.hosts[1].home / "elsewhere" / "set" / "a" / "b").rmdir()
    (cluster.hosts[1].home / "elsewhere" / "set" / "a" / "b").symlink_to("/etc")
    done = orch("sync")
    assert done.returncode == 5
    assert "node2: 'a/b/two words' leads out of" in done.stderr and "the other 2 of 3" in done.stderr
    assert cluster.hosts[1].run("ls", "/etc/two words").returncode != 0


def test_nodes_that_do_not_reach_each_other_get_it_from_here(orch: Orch, cluster: Cluster, big: Path) -> None:
    others = " ".join(f"{host.address}," for host in cluster.hosts).rstrip(",")
    cluster["node3"].drop(f"ip saddr {{ {others} }} tcp dport != 22 drop")
    try:
        done, size = sent(orch, cluster, "--data", big.name)
    finally:
        cluster["node3"].clear_drops()
    assert done.returncode == 0, done.stderr
    assert re.search(r"node3 cannot be reached from node2 \(.*\): it gets the data from this machine", done.stderr)
    assert 2 * SIZE < size < 2.4 * SIZE
    assert there(cluster["node3"], big.name).read_bytes() == big.read_bytes()


def test_a_broken_transfer_goes_on_where_it_was(orch: Orch, cluster: Cluster, big: Path) -> None:
    """Kill the middle node's relay while data flow: it and the node after it get the rest in a second pass."""
    process = orch.popen("sync", "--data", big.name, "--rate", "6M")
    until(lambda: any(path.stat().st_size > 4_000_000 for path in parts(cluster["node2"])), 30)
    relays = [each for each in cluster["node2"].processes() if "relay" in each.argv]
    for each in relays:
        os.kill(each.pid_outside, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "resuming the transfer to " in output
    for host in cluster.hosts:
        assert there(host, big.name).read_bytes() == big.read_bytes()
        assert parts(host) == []


def test_a_killed_control_process_leaves_parts_that_are_used(orch: Orch, cluster: Cluster, big: Path) -> None:
    process = orch.popen("sync", "--data", big.name, "--rate", "8M")
    until(lambda: all(any(p.stat().st_size > 8_000_000 for p in parts(host)) for host in cluster.hosts), 30)
    process.kill()
    process.communicate()
    until(lambda: not any("relay" in each.argv for host in cluster.hosts for each in host.processes()), 30)
    done, size = sent(orch, cluster, "--data", big.name)
    assert done.returncode == 0 and size < SIZE - 6_000_000, done.stderr
    for host in cluster.hosts:
        assert there(host, big.name).read_bytes() == big.read_bytes()


def test_what_is_not_there_is_said(orch: Orch, big: Path) -> None:
    for words, said in (
        (["--data", "nowhere.bin"], "--data nowhere.bin: no such file or folder"),
        (["--data", big.name, "--rate", "fast"], "--rate fast: expected bytes per second such as 500k"),
    ):
        done = orch("sync", *words)
        assert done.returncode == 2 and said in done.stderr


def test_mnist_is_downloaded_here_once_and_sent(orch: Orch, cluster: Cluster, tmp_path: Path) -> None:
    (orch.folder / ".orchignore").write_text("*\n")
    env = {"XDG_CACHE_HOME": str(orch.folder / "cache")}
    refused = orch("sync", "--data", "mnist", **env, ORCH_DATASETS=str(tmp_path / "nowhere"))
    assert refused.returncode == 5
    said = (
        "error: mnist could not be downloaded to this machine: raw/train-images-idx3-ubyte.gz: [Errno 2] No such"
    )
    assert said in refused.stderr and "→ set ORCH_DATASETS to a folder or URL" in refused.stderr
    if not DATA.is_dir():
        pytest.skip("the MNIST files are not beside this checkout")
    for place in (DATA, tmp_path / "nowhere"):
        done = orch("sync", "--data", "mnist", **env, ORCH_DATASETS=str(place))
        assert done.returncode == 0 and "MNIST is on 3 hosts, 55.0 MB each" in done.stdout, done.stderr
    for host in cluster.hosts:
        assert (there(host, "MNIST") / "raw" / "t10k-labels-idx1-ubyte").stat().st_size == 10_008
        shutil.rmtree(there(host, "MNIST"))
