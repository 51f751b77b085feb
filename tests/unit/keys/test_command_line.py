"""What ``orch keys`` refuses before it connects to any host, in one line each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Orch


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["keys"], "stdin is no terminal → pass --yes, and --password-stdin where a host takes only a password"),
        (["keys", "--password-stdin"], "--password-stdin needs --yes"),
        (["keys", "--yes", "--hosts", "sandbox.yaml"], "the embedded cluster has keys of its own"),
        (["keys", "--yes", "--hosts", "none.yaml"], "cannot read the hosts file none.yaml"),
    ],
)
def test_one_line_says_why_nothing_is_done(local_orch: Orch, words: list[str], said: str) -> None:
    (local_orch.folder / "hosts.yaml").write_text("hosts: {a: {address: 192.0.2.1}}")
    (local_orch.folder / "sandbox.yaml").write_text("sandbox: true\nhosts: [a, b]\n")
    done = local_orch(*words)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("error: ") and said in line
    assert not (local_orch.folder / ".ssh").exists()


def test_the_password_is_read_from_stdin_and_not_from_the_arguments(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "keys", "--help"],
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "--password-stdin" in done.stdout and "--password " not in done.stdout
