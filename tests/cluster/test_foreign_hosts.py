"""Other tools' lists of hosts, and lists without a file, reach real hosts as an inventory does."""

from __future__ import annotations

import pytest

from tests.conftest import Orch
from tests.namespaces import Cluster

pytestmark = pytest.mark.cluster


def test_lists_of_other_tools_reach_the_hosts(orch: Orch, cluster: Cluster) -> None:
    addresses = [host.address for host in cluster.hosts]
    (orch.folder / "hosts.txt").write_text("".join(f"root@{each}\n" for each in addresses))
    (orch.folder / "inventory.ini").write_text(
        "[gpu]\n"
        + "".join(f"node{n} ansible_host={each}\n" for n, each in enumerate(addresses))
        + f"[gpu:vars]\nansible_user=root\nansible_ssh_private_key_file={cluster.identity_file}\nansible_become=true\n"
    )
    expected = sorted(host.name for host in cluster.hosts)
    for hosts in ("hosts.txt", ",".join(f"root@{each}" for each in addresses), "inventory.ini"):
        done = orch("exec", "--hosts", hosts, "--", "hostname")
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(name in done.stdout for name in expected)
        noted = "ansible_become is not carried over: orch runs nothing as another user"
        assert done.stderr.count(noted) == (hosts == "inventory.ini")
