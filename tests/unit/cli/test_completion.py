"""What the shells are told: click's protocol in this process, and the script in a real bash."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.help.shells import SHELLS
from tests.conftest import ROOT
from tests.unit.cli.program import printed

RUN = "20261121-064804-eaed"
OLDER = "20251121-064804-00ff"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a hosts file, two runs, a script."""
    (tmp_path / "hosts.yaml").write_text('hosts: {"gpu[01-03]": {address: "10.0.0.[1-3]"}, extra: {}}\n')
    (tmp_path / "lab.yaml").write_text("hosts: {lab1: {}}\n")
    for name in (OLDER, RUN, "nothing"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / RUN / "plan.json").write_text('{"spec": {"workload": {"name": "train"}}}')
    (tmp_path / "runs" / OLDER / "plan.json").write_text("[]")
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "_part.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCH_HOSTS", raising=False)
    return tmp_path


def told(shell: str, line: str) -> list[str]:
    """Return the lines that a shell is told when it completes the last word of ``line``."""
    words = line.split(" ")
    where = words[-1] if shell == "fish" else str(len(words) - 1)
    shown = printed(_ORCH_COMPLETE=f"{shell}_complete", COMP_WORDS=line, COMP_CWORD=where)
    return [each for each in shown.splitlines() if each]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("orch sa", ["sandbox"]),
        ("orch sandbox ", ["down", "up"]),
        ("orch run tr", ["train"]),
        ("orch run m", ["message-passing", "mpi-ddp", "multinode", "mine.py"]),
        ("orch run ./m", ["file,./m"]),
        ("orch run nothing", ["file,nothing"]),
        ("orch run train -- x", ["file,x"]),
        ("orch run --nodes gpu02", ["gpu02"]),
        ("orch run --nodes gpu01,gpu", ["gpu01,gpu02", "gpu01,gpu03"]),
        ("orch run --nodes = ex", ["extra"]),
        ("orch run --hosts lab.yaml --nodes ", ["lab1"]),
        ("orch run --hosts lab.yaml --nodes = ", ["lab1"]),
        ("orch run --hosts none.yaml --nodes ", []),
        ("orch exec --hosts sandbox:3 --nodes ", ["node1", "node2", "node3"]),
        ("orch run --resume ", [RUN, OLDER, "@last", "@last-failed", "@last-ok"]),
        ("orch run --runs-dir elsewhere --resume ", []),
        ("orch logs ", [RUN, OLDER, "@last", "@last-failed", "@last-ok"]),
        ("orch runs show @last-f", ["@last-failed"]),
        ("orch attach 2026", [RUN]),
        ("orch stop 2025", [OLDER]),
        ("orch logs --node e", ["extra"]),
        ("orch run --back", ["--backend"]),
        ("orch run --backend ", ["auto", "nccl", "gloo", "mpi"]),
        ("orch workloads copy hello", ["hello", "hello-ddp"]),
        ("orch help exit", ["exit-codes"]),
        ("orch help work", ["workloads"]),
        ("orch help sandbox u", ["up"]),
        ("orch help outputs ", []),
        ("orch completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_words_are_completed(folder: Path, line: str, expected: list[str]) -> None:
    assert [each.removeprefix("plain,") for each in told("bash", line)] == expected


def test_zsh_and_fish_are_told_what_the_words_mean(folder: Path) -> None:
    assert told("zsh", "orch attach ")[:6] == ["plain", RUN, "train", "plain", OLDER, "_"]
    assert told("zsh", "orch attach @last-o") == ["plain", "@last-ok", "the newest run that succeeded"]
    assert told("zsh", "orch run --nodes gpu01") == ["plain", "gpu01", "10.0.0.1"]
    assert told("fish", "orch attach 2026") == [f"plain,{RUN}\ttrain"]
    # A name that is its own address needs no text.
    assert told("zsh", "orch run --nodes e") == ["plain", "extra", "_"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_value_joined_to_its_option_is_completed_with_it(shell: str, folder: Path) -> None:
    shown = told(shell, "orch run --nodes=gpu01,ex")
    assert shown == (["plain", "--nodes=gpu01,extra", "_"] if shell == "zsh" else ["plain,--nodes=gpu01,extra"])
    assert told(shell, "orch run --hosts=la")[0].startswith("file")


def test_fish_keeps_commas() -> None:
    assert 'string split --max 1 ","' in printed("completion", "fish")


def test_a_wrong_hosts_file_completes_nothing_and_says_nothing(folder: Path) -> None:
    (folder / "hosts.yaml").write_text("hosts: [")
    assert told("bash", "orch run --nodes ") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_one_that_the_shell_reads(shell: str, tmp_path: Path) -> None:
    script = printed("completion", shell)
    assert f"_ORCH_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes(folder: Path) -> None:
    # The program under the name that the user types.
    program = folder / "bin" / "orch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m orchestrator "$@"\n')
    program.chmod(0o755)
    lines = """
        eval "$(orch completion bash)"
        complete -p orch
        COMP_WORDS=(orch run --nodes = gpu0) COMP_CWORD=4
        _orch_completion orch
        echo "${COMPREPLY[@]}"
        COMPREPLY=() COMP_WORDS=(orch att) COMP_CWORD=1
        _orch_completion orch
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", lines],
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[1:] == ["gpu01 gpu02 gpu03", "attach"], done.stderr
    assert "-F _orch_completion" in done.stdout.splitlines()[0]
