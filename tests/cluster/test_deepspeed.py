"""The DeepSpeed example of docs/accelerate-deepspeed.md, on hosts without GPUs."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.conftest import ROOT, Orch

PAGE = ROOT / "docs" / "accelerate-deepspeed.md"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="needs deepspeed, which the dev extra leaves out because it builds from source",
    ),
]


@pytest.mark.timeout(300)
def test_the_example_trains_over_gloo(orch: Orch) -> None:
    blocks = dict(re.findall(r"^```(python|json)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    (orch.folder / "train_deepspeed.py").write_text(blocks["python"])
    (orch.folder / "ds_config.json").write_text(blocks["json"])
    words = ["train_deepspeed.py", "--deepspeed", "--deepspeed_config", "ds_config.json", "--steps", "10"]
    done = orch("run", "--nodes", "2", *words, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = re.findall(r"mean loss of 2 ranks by gloo: ([\d.]+)", done.stdout)
    assert len(losses) == 2 and len(set(losses)) == 1, done.stdout
    saved = [
        sorted(each.name for each in (orch.run_folder() / node).glob("checkpoints/global_step10/*.pt"))
        for node in ("node1", "node2")
    ]
    assert saved == [
        ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        ["zero_pp_rank_1_mp_rank_00_optim_states.pt"],
    ]
