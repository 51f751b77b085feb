"""``orch init`` on real hosts, with and without a terminal; what it writes is a cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import yaml

from tests import standin
from tests.conftest import ROOT, Orch
from tests.namespaces import Cluster

pytestmark = pytest.mark.cluster

PYTHON = "~/venvs/train/bin/python"


@pytest.fixture(scope="module")
def equipped(cluster: Cluster) -> Iterator[Cluster]:
    """The three hosts, each with an environment that has a stand-in for torch."""
    for host in cluster.hosts:
        standin.install(host)
        folder = host.home / "venvs" / "train" / "bin"
        folder.mkdir(parents=True)
        (folder / "python").symlink_to(standin.PYTHON)
    yield cluster
    for host in cluster.hosts:
        subprocess.run(["rm", "-r", host.home / "standin", host.home / "venvs"], check=True)


@pytest.fixture
def newcomer(equipped: Cluster, tmp_path: Path) -> Orch:
    """``orch`` of somebody who has a key for the hosts, and has never seen them."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_ed25519").write_bytes(equipped.identity_file.read_bytes())
    (home / ".ssh" / "id_ed25519").chmod(0o600)
    (home / ".ssh" / "config").write_text(f"Host third\n  HostName {equipped.hosts[2].address}\n")
    folder = tmp_path / "lab"
    folder.mkdir()
    return Orch(folder, {**equipped.control_env(), "HOME": str(home), "PYTHONPATH": str(ROOT)})


def fingerprint(cluster: Cluster, name: str) -> str:
    """Return the fingerprint of a host's key, as its console would show it."""
    file = cluster[name].folder / "etc" / "ssh" / "ssh_host_ed25519_key.pub"
    said = subprocess.run(["ssh-keygen", "-lf", file], capture_output=True, text=True, check=True).stdout
    return said.split()[1]


def test_without_a_terminal(newcomer: Orch, equipped: Cluster) -> None:
    addresses = [host.address for host in equipped.hosts]
    none = newcomer("init")
    assert (
        (none.returncode, none.stdout) == (2, "")
        and none.stderr.count("\n") == 1
        and "no hosts given" in none.stderr
    )
    typed = f"root@{addresses[0][:-1]}[1-2]:22"
    refused = newcomer("init", typed, "third", "--accept-fingerprint", fingerprint(equipped, "node1"))
    assert refused.returncode == 4 and "is not known (ssh-ed25519 SHA256:" in refused.stderr, refused.stderr
    assert "✓ ok      node1: Debian" in refused.stderr and not list(newcomer.folder.iterdir())
    done = newcomer("init", typed, "third", "--accept-new-host-keys")
    assert done.returncode == 0, done.stderr
    # Hosts typed by number get the names that they have themselves; an alias stays.
    assert yaml.safe_load((newcomer.folder / "hosts.yaml").read_text()) == {
        "cluster": "lab",
        "defaults": {"python": PYTHON},
        "hosts": {
            "node1": {"address": addresses[0], "user": "root", "port": 22},
            "node2": {"address": addresses[1], "user": "root", "port": 22},
            "third": {},
        },
        "rendezvous": {"interface": "eth0"},
        "master": "node1",
    }
    said = newcomer("exec", "hostname")
    assert (said.returncode, said.stdout.split()) == (0, ["node1", "node2", "node3"]), said.stderr
    shown = newcomer("hosts", "--nodes", "third").stdout
    assert re.search(rf"address +third +{re.escape(addresses[2])} +~/.ssh/config\n", shown), shown
    assert re.search(r"host_key +third +ssh-ed25519 SHA256:\S+ +known_hosts\n", shown), shown
    again = newcomer("init", "third")
    assert again.returncode == 2 and "hosts.yaml exists → pass --add" in again.stderr


def test_in_a_terminal(newcomer: Orch, equipped: Cluster) -> None:
    """A mistyped name is corrected, one key is recognised by its fingerprint, one refused first, and so on."""
    argv = newcomer.argv("init")
    addresses = [host.address for host in equipped.hosts]
    env = {**newcomer.env, "TERM": "dumb"}  # no styles between the words
    with pexpect.spawn(
        argv[0], argv[1:], cwd=newcomer.folder, env=env, encoding="utf-8", dimensions=(50, 200), timeout=20
    ) as terminal:
        terminal.logfile_read = sys.stdout

        def answer(question: str, line: str) -> None:
            terminal.expect_exact(question)
            terminal.sendline(line)

        answer("hosts: ", f"no;host {addresses[0]}")
        terminal.expect_exact("'no;host' is no host")
        answer("hosts: ", f"mistyped.invalid {addresses[0]}")
        terminal.expect_exact(f"{fingerprint(equipped, 'node1')})")
        answer("the fingerprint) [no]: ", fingerprint(equipped, "node1"))
        terminal.expect_exact("node1: Debian")
        terminal.expect_exact("mistyped.invalid: the name 'mistyped.invalid' cannot be resolved")
        terminal.expect_exact("mistyped.invalid: what now?")
        answer("your choice (again, change, keep, drop) [change]: ", "")
        answer("instead of mistyped.invalid: ", addresses[1])
        answer("the fingerprint) [no]: ", fingerprint(equipped, "node1"))
        terminal.expect_exact(f"{addresses[1]}: host key of")
        answer("(again, change, keep, drop) [again]: ", "again")
        answer("the fingerprint) [no]: ", "yes")
        terminal.expect_exact("node2: Debian")
        answer("hosts (an empty line ends): ", "third")
        answer("the fingerprint) [no]: ", "yes")
        answer("hosts (an empty line ends): ", "")
        answer(f"interpreter for training [{PYTHON}]: ", "")
        answer("[eth0]: ", "eth0;")
        terminal.expect_exact("rendezvous.interface: 'eth0;': expected")
        answer("[eth0]: ", "auto")
        answer("[node2]: ", "node1")
        answer("write hosts.yaml? [Y/n]: ", "y")
        terminal.expect_exact("orch doctor")
        terminal.expect(pexpect.EOF)
    assert terminal.exitstatus == 0
    written = yaml.safe_load((newcomer.folder / "hosts.yaml").read_text())
    assert (list(written["hosts"]), written["master"]) == (["node2", "node1", "third"], "node1")
    assert (newcomer.folder / "hosts.schema.json").is_file()
    said = newcomer("exec", "hostname")
    assert (said.returncode, sorted(said.stdout.split())) == (0, ["node1", "node2", "node3"]), said.stderr
