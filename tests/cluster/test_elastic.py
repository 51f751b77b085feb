"""Elastic runs: torchrun starts the ranks again on the hosts that are left, and orch follows them."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Orch
from tests.namespaces import Cluster
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]


def test_a_host_is_cut_off_and_the_others_go_on(orch: Orch, cluster: Cluster) -> None:
    """Kill the control process, too: another one takes the run up while the host is still cut off."""
    words = ["run", "--nnodes", "2:3", "--node-timeout", "8", "elastic", "--"]
    process = orch.popen(*words, "--steps", "120", "--timeout", "8", "--save-every", "5")
    try:
        output = heard(process, "Step 20/120")
        cluster["node3"].cut()
        output += heard(process, "Step 40/120")
        process.kill()
        output += rest(process)
        attached = orch("attach", "--connect-timeout", "3")
        output += attached.stdout + attached.stderr
    finally:
        cluster["node3"].restore()
        process.kill()
    assert attached.returncode == 0, output
    assert re.findall(r"World size (\d) on (.*) \(", output) == [
        ("3", "node1, node2, node3"),
        ("2", "node1, node2"),
    ]
    (step,) = re.findall(r"Resuming at step (\d+) ", output)
    assert int(step) >= 20
    steps = [int(number) for number in re.findall(r"Step (\d+)/120", output)]
    assert steps == list(range(5, 121, 5)), output
    assert "node3: lost" in output and "Done after 120 steps on 2 ranks" in output
    assert (orch.run_folder() / "node1" / "loss.png").exists()
