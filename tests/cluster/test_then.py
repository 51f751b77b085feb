"""A command that follows a run, on real hosts."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import Orch
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

WRITES = """
import os, time
open("result.txt", "w").write(os.environ["ORCH_NODE"] * 100)
print("written", flush=True)
if os.path.exists("wait"):
    time.sleep(600)
"""
# Lists what is here when the command begins.
LISTS = 'echo "then $ORCH_RUN_ID $ORCH_EXIT_CODE" $(cd "$ORCH_RUN_DIR" && ls -d */result.txt)'


def test_a_command_finds_the_outputs_of_all_hosts(orch: Orch) -> None:
    (orch.folder / "t.py").write_text(WRITES)
    done = orch("run", "--then", LISTS, "t.py")
    run_id = orch.run_folder().name
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"then {run_id} 0 node1/result.txt node2/result.txt node3/result.txt\n")
    assert "\nthen: exit code 0" in done.stderr
    # With a hosts file that leaves the outputs on the hosts.
    small = orch.folder / "small.yaml"
    small.write_text((orch.folder / "hosts.yaml").read_text() + "\noutputs: {max_size: 10}\n")
    left = orch("attach", run_id, "--hosts", "small.yaml", "--runs-dir", "small", "--then", "touch made")
    assert left.returncode == 7 and not (orch.folder / "made").exists(), left.stderr
    assert (
        "error: --then: not run, because outputs are missing here: node1 holds result.txt (500 bytes"
        in left.stderr
    )
    assert "and 2 more hosts → orch attach " in left.stderr
    # Taken over after its end, from a machine that has recorded nothing of it.
    there = orch("attach", run_id, "--runs-dir", "elsewhere", "--then", LISTS + "; exit 3")
    assert there.returncode == 7, there.stderr
    assert there.stdout.endswith(f"then {run_id} 0 node1/result.txt node2/result.txt node3/result.txt\n")
    assert "error: --then: the command ended with exit code 3" in there.stderr


def test_an_interrupted_run_is_followed_and_one_left_going_is_not(orch: Orch) -> None:
    (orch.folder / "t.py").write_text(WRITES)
    (orch.folder / "wait").write_text("")
    process = orch.popen("run", "--then", LISTS, "t.py")
    said = heard(process, "written")
    process.send_signal(signal.SIGQUIT)
    said += rest(process)
    assert process.returncode == 0 and "then: not run: the run goes on → orch attach " in said, said
    run_id = orch.run_folder().name
    process = orch.popen("attach", run_id, "--then", LISTS)
    said = heard(process, "written")
    process.send_signal(signal.SIGINT)
    said += rest(process)
    assert process.returncode == 130, said
    assert f"\nthen {run_id} 130 node1/result.txt node2/result.txt node3/result.txt\n" in said, said
