"""``orch keys`` on hosts that start with a password: to a login with keys, between the hosts, and all the way back."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import stat
import subprocess
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ROOT, Orch
from tests.namespaces import Cluster, files, require

pytestmark = pytest.mark.cluster
PASSWORD, THIRD = "open-sesame-7", "of-the-third-8"
OWN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7oXJ4bQf8OqNGJQ2Yb3W0zG5T1m9b2rYcN0mJ0p1aB somebody@else"
# Longest wait for a question or for the end, in seconds.
LIMIT = 60.0
Picture = dict[str, tuple[int, bytes | None]]


def picture(home: Path) -> Picture:
    """Return modes and contents of everything in ``~/.ssh``."""
    ssh = home / ".ssh"
    return {
        str(path): (stat.S_IMODE(path.lstat().st_mode), path.read_bytes() if path.is_file() else None)
        for path in [ssh, *sorted(ssh.rglob("*"))]
        if path.exists()
    }


@dataclass
class Story:
    """What ``orch`` said at each step, and what ``~/.ssh`` held then on every host."""

    cluster: Cluster
    said: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    logins: dict[tuple[str, str], str] = field(default_factory=dict)
    argv: bytes = b""

    def note(self, step: str, said: subprocess.CompletedProcess[str]) -> None:
        self.said[step] = said
        self.pictures[step] = [picture(host.home) for host in self.cluster.hosts]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    require()
    with Cluster(3, password=PASSWORD) as cluster:
        told = Story(cluster)
        _differ(cluster)
        told.pictures["start"] = [picture(host.home) for host in cluster.hosts]
        _tell(told, tmp_path_factory.mktemp("keys"))
        yield told


def _differ(cluster: Cluster) -> None:
    """Give each host something of its own: a file without final newline, an interactive login, another password."""
    ssh = cluster.hosts[0].home / ".ssh"
    ssh.mkdir(mode=0o700)
    (ssh / "authorized_keys").write_text(OWN)
    (ssh / "authorized_keys").chmod(0o664)
    (ssh / "config").write_text("Host *\n    ServerAliveInterval 30\n")
    if Path("/etc/pam.d/sshd").exists():
        interactive = {"UsePAM": "yes", "KbdInteractiveAuthentication": "yes", "PasswordAuthentication": "no"}
        cluster.hosts[1].restart_sshd(interactive)
    # Written in place, as the host has the file itself mounted.
    (cluster.hosts[2].folder / "etc" / "shadow").write_text(files.shadow(THIRD))


def _tell(story: Story, folder: Path) -> None:
    cluster = story.cluster
    (folder / "hosts.yaml").write_text(cluster.hosts_yaml())
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    orch = Orch(folder, {**cluster.control_env(), "PYTHONPATH": str(ROOT)})
    story.note("locked out", orch("exec", "--accept-new-host-keys", "--", "true", HOME=str(elsewhere)))
    wrong = subprocess.run(
        orch.argv("keys", "--yes", "--password-stdin"),
        cwd=folder,
        env={**orch.env, "HOME": str(elsewhere)},
        input="not-the-password\n",
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    story.note("wrong", wrong)
    story.said["wrong"].stdout += "".join(str(path) for path in elsewhere.rglob("id_*"))
    story.note("keys", _typed(story, orch, "keys"))
    story.note("exec", orch("exec", "--", "hostname"))
    story.note("again", orch("keys", "--yes"))
    story.note("between", orch("keys", "--between", "--yes"))
    story.logins = _logins(cluster)
    story.note("between again", orch("keys", "--between", "--yes"))
    story.note("undo", orch("keys", "--undo", "--yes"))
    story.note("undo again", orch("keys", "--undo", "--yes"))
    story.note("dry undo", orch("keys", "--undo", "--dry-run"))


def _typed(story: Story, orch: Orch, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``orch`` on a terminal of its own, and answer its questions as a person would."""
    answers = [
        ("these 3 host keys", "y"),
        ("Make these changes?", "y"),
        ("password of root on node[1-3]", PASSWORD),
        ("other password of root on node3", THIRD),
    ]
    master, slave = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        orch.argv(*words),
        cwd=orch.folder,
        env=orch.env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(slave)
    shown, seen = b"", 0
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 1.0)[0]:
            continue
        try:
            shown += os.read(master, 65536)
        except OSError:
            break
        # Turning the echo off discards what was typed before; the blank after the colon comes afterwards.
        asked = shown[seen:].decode("utf-8", "replace").replace("\r\n", "")
        if answers and answers[0][0] in asked and asked.endswith(": "):
            seen = len(shown)
            os.write(master, answers.pop(0)[1].encode() + b"\n")
            for name in ("cmdline", "environ"):
                story.argv += Path(f"/proc/{process.pid}/{name}").read_bytes()
    if process.poll() is None and time.monotonic() >= deadline:
        process.kill()
    os.close(master)
    return subprocess.CompletedProcess(words, process.wait(), shown.decode("utf-8", "replace"), "")


def _logins(cluster: Cluster) -> dict[tuple[str, str], str]:
    """Have every host log in to every other by name and by address; return what each answered."""

    def login(pair: tuple[int, int, bool]) -> tuple[tuple[str, str], str]:
        here, there = cluster.hosts[pair[0]], cluster.hosts[pair[1]]
        target = there.name if pair[2] else there.address
        options = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes")
        done = here.run("ssh", *options, target, "hostname", timeout=LIMIT)
        return (here.name, target), (done.stdout or done.stderr).strip().replace(there.name, "there")

    pairs = [(a, b, named) for a in range(3) for b in range(3) for named in (True, False) if a != b]
    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(login, pairs))


def test_where_a_password_is_all_there_is_orch_keys_is_named(story: Story) -> None:
    said = story.said["locked out"]
    assert said.returncode == 4
    # Once for all hosts, in another line where the server names other methods.
    lines = [line for line in said.stderr.splitlines() if line.startswith("error: ")]
    assert 1 <= len(lines) <= 2 and all("orch keys" in line for line in lines), said.stderr
    assert lines[0].startswith(("error: node[1-3]: ", "error: node[1,3]: ")), said.stderr


def test_a_wrong_password_is_one_line_and_changes_nothing(story: Story) -> None:
    said = story.said["wrong"]
    assert said.returncode == 4
    lines = [line for line in said.stderr.splitlines() if "refused the password" in line]
    assert [line.split(": ")[1] for line in lines] == ["node[1-3]"]
    assert "nothing was changed on the hosts" in said.stderr
    assert story.pictures["wrong"] == story.pictures["start"]
    assert "id_ed25519.pub" not in said.stdout.rpartition("\n")[2]


def test_questions_are_asked_once_and_then_a_key_logs_in(story: Story) -> None:
    said = story.said["keys"]
    assert said.returncode == 0, said.stdout
    text = said.stdout.replace("\r\n", "\n")
    assert text.count("SHA256:") == 3 and text.index("SHA256:") < text.index("these 3 host keys")
    assert text.index("make an ed25519 key") < text.index("Make these changes?") < text.index("password of root")
    assert text.count("password of root") == 2
    assert story.said["exec"].stdout.split() == ["node1", "node2", "node3"], story.said["exec"].stderr
    first = story.pictures["keys"][0]
    (content,) = [each[1] for name, each in first.items() if name.endswith("authorized_keys")]
    assert (
        content is not None and content.startswith(f"{OWN}\nssh-ed25519 ".encode()) and content.count(b"\n") == 2
    )


def test_a_second_time_nothing_changes(story: Story) -> None:
    assert "nothing to do" in story.said["again"].stdout and story.said["again"].returncode == 0
    assert story.pictures["again"] == story.pictures["keys"]
    assert story.said["between again"].returncode == 0
    assert "nothing to do between nodes" in story.said["between again"].stdout
    assert story.pictures["between again"] == story.pictures["between"]


def test_every_host_logs_in_to_every_other(story: Story) -> None:
    assert story.said["between"].returncode == 0, story.said["between"].stderr
    assert "6 of 6 logins work" in story.said["between"].stderr
    assert len(story.logins) == 12 and set(story.logins.values()) == {"there"}, story.logins


def test_undo_restores_every_byte(story: Story) -> None:
    assert story.said["undo"].returncode == 0, story.said["undo"].stderr
    assert story.pictures["undo"] == story.pictures["start"]
    assert story.said["undo again"].returncode == 0, story.said["undo again"].stderr
    assert "node[1-3]  nothing to undo" in story.said["undo again"].stdout
    assert "changes recorded for node[1-3]" in story.said["undo"].stderr
    assert "not asked: node[1-3]" in story.said["dry undo"].stderr
    home = story.cluster.control_home
    assert [path.name for path in (home / ".ssh").iterdir()] == ["known_hosts"]
    assert not (home / ".local" / "state" / "orch" / "keys.json").exists()


def test_the_passwords_are_nowhere(story: Story) -> None:
    assert story.argv
    for word in (PASSWORD.encode(), THIRD.encode(), b"not-the-password"):
        assert word not in story.argv
        for said in story.said.values():
            assert word.decode() not in said.stdout + said.stderr
        grep = [shutil.which("grep") or "grep", "-rlaF", "--", word.decode(), str(story.cluster.folder)]
        assert subprocess.run(grep, capture_output=True, text=True, check=False).stdout == ""
