"""Runs by name, listed, compared and repeated, on two real hosts."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import Orch

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

SEEDED = """
import os, random, sys
from orch_metrics import log
lr = float(sys.argv[sys.argv.index("--lr") + 1])
random.seed(os.environ["SEED"])
loss = 0
for step in range(5):
    loss += random.random() * lr
    log(step=step + 1, loss=loss)
"""


def test_a_named_run_is_compared_and_repeated(orch: Orch) -> None:
    script = orch.folder / "seeded.py"
    script.write_text(SEEDED)
    words = ("--nodes", "node1,node3", "--env", "SEED=7", "--env", "API_KEY=hidden", "seeded.py")
    first = orch("run", "--name", "base", *words, "--lr", "0.5")
    assert first.returncode == 0, first.stderr
    script.write_text(SEEDED.replace("random.random() * lr", "random.random() / lr"))
    failed = orch("run", "--notify", 'echo "$ORCH_EVENT $ORCH_TEXT" >>told', *words, "--lr", "0")
    assert failed.returncode == 1
    (told,) = (orch.folder / "told").read_text().splitlines()
    assert re.match(
        r"failed orch: seeded\.py \(\d{8}-\d{6}-\w{4}\) failed after \d+ s: rank \d on node\d", told
    ), told
    listed = [json.loads(line) for line in orch("runs", "--json").stdout.splitlines()]
    assert [(run["name"], run["state"], run["nodes"]) for run in listed] == [
        ("base", "ok", ["node1", "node3"]),
        (None, "failed", ["node1", "node3"]),
    ]
    assert listed[0]["metrics"]["step"] == 5
    assert "ended with exit code 1" in listed[1]["what"]
    assert "failed: rank" in orch("runs", "--failed").stdout
    shown = orch("runs", "show", "@last-failed").stdout
    assert "command    orch run seeded.py --lr 0\n" in shown and "ZeroDivisionError" in shown
    assert "hidden" not in shown + orch("runs", "show", "base", "--json").stdout
    different = orch("runs", "diff", "base", "@last").stdout.splitlines()
    assert "  --lr  0.5 → 0" in different
    assert "  seeded.py: changed (+1 -1)" in different
    assert "    +    loss += random.random() / lr" in different
    # The code is that of the first run, though it has changed, and the hosts are those two.
    again = orch("run", "--again", "base", "--name", "twice", API_KEY="hidden")
    assert again.returncode == 0, again.stderr
    measured = [json.loads(orch("runs", "metrics", name, "--json").stdout) for name in ("base", "twice")]
    assert measured[0]["steps"] == [1, 2, 3, 4, 5] and measured[0]["source"] == "node1/orch-output/metrics.jsonl"
    assert measured[0]["values"] == measured[1]["values"]
    drawn = orch("runs", "plot", "base", "twice", "--metric", "loss").stdout
    assert drawn.startswith("loss by step\n") and "\nb  " in drawn and "(twice): " in drawn
    assert orch("runs", "diff", "base", "twice").stdout == "the runs do not differ\n"
    clash = orch("run", "--again", "base", "--nproc", "2")
    assert (clash.returncode, clash.stderr) == (
        2,
        "error: --again repeats the run as it was, so --nproc does not go with it → leave it out, or start the run "
        "by its command: orch runs show\n",
    )
    secret = orch("run", "--again", "base")
    assert "the value of API_KEY is a secret, which was not recorded" in secret.stderr
    assert orch("attach", "base").returncode == 0
    assert "error: no host knows a run bsae" in orch("logs", "bsae").stderr
    assert orch("runs", "tag", "twice", "kept").stdout == "kept\n"
    assert orch("runs", "prune", "--keep", "0").stdout.startswith("removed 2 runs")
    assert [each["name"] for each in map(json.loads, orch("runs", "--json").stdout.splitlines())] == ["twice"]
