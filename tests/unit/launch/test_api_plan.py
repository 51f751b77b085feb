"""The launch options of the Python API, as its offline plans show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import Cluster
from orchestrator.core.launch.command import commands


def test_a_program_sends_its_own_settings_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts.yaml").write_text("{pass_env: [A_LICENCE], hosts: [10.0.0.1, 10.0.0.2]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    monkeypatch.setenv("A_LICENCE", "hush")
    cluster = Cluster.from_file(master="10.0.0.2")
    plain, asked = cluster.plan("hello"), cluster.plan("hello", local_env=True)
    assert [node.node for node in plain.nodes] == ["10.0.0.2", "10.0.0.1"]
    for each in commands(plain):
        assert "MKL_NUM_THREADS" not in each.env and each.env["A_LICENCE"] == "hush"
    assert {each.env["MKL_NUM_THREADS"] for each in commands(asked)} == {"3"}
