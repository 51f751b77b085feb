"""``orch init`` on hosts that start with a password: one command gives a complete hosts file and logins with keys."""

from __future__ import annotations

import sys
from pathlib import Path

import pexpect
import pytest
import yaml

from tests.conftest import ROOT, Orch
from tests.namespaces import Cluster, require

pytestmark = pytest.mark.cluster
PASSWORD = "open-sesame-7"


def test_one_init_gives_a_complete_file_and_a_second_adds_to_it(tmp_path: Path) -> None:
    require()
    with Cluster(2, password=PASSWORD) as cluster:
        home, folder = tmp_path / "home", tmp_path / "lab"
        (home / ".ssh").mkdir(parents=True)
        folder.mkdir()
        orch = Orch(folder, {**cluster.control_env(), "HOME": str(home), "PYTHONPATH": str(ROOT), "TERM": "dumb"})
        first, second = (host.address for host in cluster.hosts)
        keys = [
            ("only a password: set up keys now? [Y/n]: ", ""),
            ("Make these changes? [Y/n]: ", ""),
            (f"password of root on {first}: ", PASSWORD),
        ]
        written = _dialogue(
            orch,
            ["init"],
            [
                ("hosts: ", ""),
                ("No host yet.", None),
                ("hosts: ", f"root@{first}"),
                ("the fingerprint) [no]: ", "yes"),
                *keys,
                ("node1: Debian", None),
                ("hosts (an empty line ends): ", ""),
                ("for orch to install? [Y/n]: ", ""),
                ("write hosts.yaml? [Y/n]: ", ""),
                ("wrote hosts.yaml, and hosts.schema.json, by which editors check it", None),
            ],
        )
        assert yaml.safe_load(written)["hosts"] == {"node1": {"address": first, "user": "root"}}
        text = f"# Mine.\n{written}"
        (folder / "hosts.yaml").write_text(text)
        # The key that the first dialogue made opens no host but the first.
        added = _dialogue(
            orch,
            ["init", second],
            [
                ("hosts.yaml exists (1 host): what now?", None),
                ("(add, replace, stop) [add]: ", ""),
                ("the fingerprint) [no]: ", "yes"),
                ("only a password: set up keys now? [Y/n]: ", ""),
                ("Make these changes? [Y/n]: ", ""),
                (f"password of root on {second}: ", PASSWORD),
                ("write hosts.yaml? [Y/n]: ", ""),
            ],
        )
        assert added.startswith("# Mine.\n") and set(text.splitlines()) <= set(added.splitlines())
        assert list(yaml.safe_load(added)["hosts"]) == ["node1", "node2"]
        said = orch("exec", "--", "hostname")
        assert (said.returncode, said.stdout.split()) == (0, ["node1", "node2"]), said.stderr


def _dialogue(orch: Orch, words: list[str], steps: list[tuple[str, str | None]]) -> str:
    """Answer the questions of a command, and return the hosts file then. None: the text is only waited for."""
    argv = orch.argv(*words)
    with pexpect.spawn(
        argv[0], argv[1:], cwd=orch.folder, env=orch.env, encoding="utf-8", dimensions=(50, 200), timeout=20
    ) as terminal:
        terminal.logfile_read = sys.stdout
        for question, line in steps:
            terminal.expect_exact(question)
            if line is not None:
                terminal.sendline(line)
        terminal.expect(pexpect.EOF)
    assert terminal.exitstatus == 0
    return (orch.folder / "hosts.yaml").read_text()
