"""The test cluster itself: its hosts are apart, its faults are real, and it leaves nothing behind."""

import ctypes
import errno
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

import tests.namespaces
from tests.namespaces import Cluster, ClusterError, NodeHost, files, require

LIMIT_S = 60.0
REPOSITORY = Path(__file__).parent.parent.parent

PING = """
import os, socket, struct, sys
ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
ping.settimeout(10)
words = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
check = sum(struct.unpack("!4H", words))
check = ~((check & 0xFFFF) + (check >> 16)) & 0xFFFF
address = socket.gethostbyname(sys.argv[1])
ping.sendto(words[:2] + struct.pack("!H", check) + words[4:], (address, 0))
answer, (source, _) = ping.recvfrom(100)
print(answer[20], source)
"""
DIAL = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.5).close()
    print("open")
except OSError as error:
    print(type(error).__name__, error.errno)
"""
LISTEN = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("listening", flush=True)
while True:
    listener.accept()[0].close()
"""
COUNT = "i=0; while echo $i; do i=$((i+1)); sleep 0.02; done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require()
    with Cluster(3, python=sys.executable) as made:
        yield made


@pytest.fixture
def node(cluster: Cluster) -> Iterator[NodeHost]:
    """A host to plant faults on, which are removed after the test."""
    host = cluster.hosts[1]
    yield host
    host.restore()
    host.unslow()
    host.clear_drops()


def python(host: NodeHost, code: str, *argv: str) -> str:
    done = host.run(sys.executable, "-c", code, *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ssh(cluster: Cluster, host: NodeHost, *argv: str, text: str | None = None) -> str:
    done = subprocess.run(cluster.ssh(host, *argv), input=text, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def started(argv: list[str], **options: object) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]  # env only
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def listening(host: NodeHost, port: int) -> Iterator[None]:
    with started(host.enter(sys.executable, "-c", LISTEN, str(port)), env=host.login()) as listener:
        assert read(listener) == b"listening\n"
        yield


def read(process: "subprocess.Popen[bytes]", limit_s: float = LIMIT_S) -> bytes | None:
    """Return what the process writes next: empty at its end, None if it is silent for ``limit_s``."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], limit_s)
    return os.read(process.stdout.fileno(), 65536) if ready else None


def drain(process: "subprocess.Popen[bytes]", quiet_s: float) -> bytes:
    """Return what is still on its way, until nothing has come for ``quiet_s`` seconds."""
    came = b""
    deadline = time.monotonic() + LIMIT_S
    while (piece := read(process, quiet_s)) is not None:
        assert piece, "the connection ended instead of falling silent"
        assert time.monotonic() < deadline, "the connection never fell silent"
        came += piece
    return came


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def uplinks(maker: int) -> list[str]:
    """Return the interfaces that clusters of the process ``maker`` have put on this machine."""
    links = json.loads(subprocess.check_output(["ip", "-j", "link"]))
    return [link["ifname"] for link in links if link["ifname"].startswith(f"orch{maker:x}-")]


def network_spaces(word: str = "") -> set[str]:
    """Return the network namespaces, but for our own, of all processes whose command line holds ``word``."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (process / "cmdline").read_bytes():
                found.add(str((process / "ns/net").readlink()))
    return found - {str(Path("/proc/self/ns/net").readlink())}


@pytest.mark.cluster
def test_ssh_reaches_each_host_under_its_own_key(cluster: Cluster) -> None:
    assert [ssh(cluster, host, "hostname") for host in cluster.hosts] == ["node1\n", "node2\n", "node3\n"]
    keys = {line.split()[2] for line in cluster.known_hosts.read_text().splitlines()}
    assert len(keys) == 3
    assert ssh(cluster, cluster.hosts[0], "pwd; echo $HOME; cat", text="input").split("\n")[2] == "input"


@pytest.mark.cluster
def test_a_control_process_finds_key_and_known_hosts_in_its_home(cluster: Cluster) -> None:
    code = (
        "import paramiko, sys; client = paramiko.SSHClient(); client.load_system_host_keys()\n"
        "client.set_missing_host_key_policy(paramiko.RejectPolicy())\n"
        "client.connect(sys.argv[1], username='root')\n"
        "print(client.exec_command('hostname')[1].read().decode()); client.close()"
    )
    env = {**cluster.control_env(), "SSH_AUTH_SOCK": ""}
    argv = [sys.executable, "-c", code, cluster.hosts[2].address]
    assert subprocess.check_output(argv, env=env, text=True, timeout=LIMIT_S).strip() == "node3"
    assert "SSH_AUTH_SOCK" not in cluster.control_env()


@pytest.mark.cluster
def test_hosts_reach_each_other_and_nothing_else(cluster: Cluster) -> None:
    first, second, third = cluster.hosts
    assert python(first, PING, third.address) == f"0 {third.address}"
    assert python(third, PING, "node2") == f"0 {second.address}"
    control = f"{cluster.switch.prefix}.0.1"
    assert python(second, PING, control) == f"0 {control}"
    assert python(first, DIAL, "node3", "22") == "open"
    assert python(first, DIAL, "192.0.2.1", "22") == f"OSError {errno.ENETUNREACH}"
    assert first.run("ls", "/sys/class/net").stdout.split() == ["eth0", "lo"]


@pytest.mark.cluster
def test_hosts_share_no_files_identity_or_processes(cluster: Cluster) -> None:
    first, second, _ = cluster.hosts
    places = ("$HOME/mine", "/dev/shm/mine", "/tmp/mine", "/run/mine")
    assert first.run("sh", "-c", f"touch {' '.join(places)}").returncode == 0
    assert (first.home / "mine").exists() and not (second.home / "mine").exists()
    for place in places:
        assert first.run("sh", "-c", f"test -e {place}").returncode == 0
        assert second.run("sh", "-c", f"test -e {place}").returncode == 1
    show = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; readlink /proc/self/ns/ipc"
    assert not set(first.run("sh", "-c", show).stdout.split()) & set(second.run("sh", "-c", show).stdout.split())

    with started(first.enter("sleep", "4321"), env=first.login({"MARK": "it is mine"})):
        until(lambda: [p.argv for p in first.processes()] == [["sleep", "4321"]], "sleep is not the only process")
        (process,) = [p for p in first.processes() if p.argv == ["sleep", "4321"]]
        assert process.environ["MARK"] == "it is mine"
        assert Path(f"/proc/{process.pid_outside}/cmdline").read_bytes() == b"sleep\x004321\x00"
        assert (
            first.run("readlink", f"/proc/{process.pid_inside}/exe")
            .stdout.strip()
            .endswith(("sleep", "coreutils"))
        )
        until(lambda: second.processes() == [], "processes of earlier sessions are left")
        assert "4321" not in second.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    until(lambda: first.processes() == [], "what enter() started outlives it")


@pytest.mark.cluster
def test_threads_that_hash_a_password_at_once_keep_to_their_own() -> None:
    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            hashes = [line.split(":")[1] for line in pool.map(lambda _: files.shadow("open"), range(200))]
    finally:
        sys.setswitchinterval(switches)
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    # A hash of the right password gives itself as the salt.
    assert all(crypt(b"open", each.encode()) == each.encode() for each in hashes)
    assert len(set(hashes)) == len(hashes)


def test_run_is_a_login_and_dies_at_its_limit(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    done = host.run("sh", "-c", 'cat; echo "$HOME $A"; pwd; exit 7', input="in ", env={"A": "b  c"})
    assert (done.returncode, done.stdout) == (7, "in /run/node-home b  c\n/run/node-home\n")
    assert "PYTEST_CURRENT_TEST" not in host.run("env").stdout
    with pytest.raises(subprocess.TimeoutExpired):
        host.run("sleep", "4322", timeout=0.3)
    until(lambda: host.processes() == [], "the command outlives its limit")


@pytest.mark.cluster
def test_signals_reach_what_a_session_starts(cluster: Cluster) -> None:
    ignored = ssh(cluster, cluster.hosts[0], "grep SigIgn /proc/self/status").split()[1]
    assert int(ignored, 16) & (1 << (signal.SIGINT - 1) | 1 << (signal.SIGTERM - 1)) == 0


@pytest.mark.cluster
def test_a_cut_link_is_silent_and_a_restored_one_resumes(cluster: Cluster, node: NodeHost) -> None:
    with started(cluster.ssh(node, COUNT)) as session:
        came = read(session) or b""
        node.cut()
        came += drain(session, quiet_s=1.0)
        assert session.poll() is None
        assert python(cluster.hosts[0], DIAL, cluster.hosts[2].address, "22") == "open"
        node.restore()
        sofar = came.count(b"\n")
        while came.count(b"\n") < sofar + 20:
            piece = read(session)
            assert piece, "the session did not go on"
            came += piece
    whole = came[: came.rindex(b"\n")].split(b"\n")
    assert whole == [b"%d" % number for number in range(len(whole))]


@pytest.mark.cluster
def test_a_cut_control_network_leaves_the_hosts_theirs(cluster: Cluster) -> None:
    first, second, _ = cluster.hosts
    cluster.cut_control()
    try:
        assert python(first, PING, second.address) == f"0 {second.address}"
        dial = [sys.executable, "-c", DIAL, first.address, "22"]
        assert subprocess.check_output(dial, text=True).strip() != "open"
    finally:
        cluster.restore_control()
    assert ssh(cluster, first, "hostname") == "node1\n"


@pytest.mark.cluster
def test_slow_limits_both_ways(cluster: Cluster, node: NodeHost) -> None:
    size, zeros = 2_500_000, "0" * 2_500_000

    def mbit(transfer: Callable[[], str]) -> float:
        begin = time.monotonic()
        transfer()
        return size * 8 / 1e6 / (time.monotonic() - begin)

    down, up = (
        (lambda: ssh(cluster, node, f"head -c {size} /dev/zero")),
        (lambda: ssh(cluster, node, "wc -c", text=zeros)),
    )
    node.slow(10)
    assert 2 < mbit(down) < 13
    assert 2 < mbit(up) < 13
    node.unslow()
    assert mbit(down) > 13
    assert mbit(up) > 13


@pytest.mark.cluster
def test_drop_and_reject_are_told_apart_and_taken_back(cluster: Cluster, node: NodeHost) -> None:
    peer = cluster.hosts[0]
    with listening(node, 29500), listening(node, 29501):
        node.drop("tcp dport 29500 drop")
        node.drop("tcp dport 29501 reject with tcp reset")
        assert python(peer, DIAL, node.address, "29500").startswith("TimeoutError")
        assert python(peer, DIAL, node.address, "29501") == f"ConnectionRefusedError {errno.ECONNREFUSED}"
        assert python(peer, DIAL, node.address, "22") == "open"
        node.clear_drops()
        assert [python(peer, DIAL, node.address, port) for port in ("29500", "29501")] == ["open", "open"]


@pytest.mark.cluster
def test_a_rule_that_nft_refuses_is_an_error(node: NodeHost) -> None:
    with pytest.raises(ClusterError, match="node2: nft"):
        node.drop("tcp dport nonsense frop")
    assert node.run("nft", "list", "ruleset").stdout == ""


@pytest.mark.cluster
def test_a_killed_host_falls_silent_and_comes_back_as_itself(cluster: Cluster, node: NodeHost) -> None:
    (node.home / "kept").write_text("kept")
    node.run("sh", "-c", "touch /dev/shm/lost; setsid sleep 4323 >/dev/null 2>&1 &")
    before = node.run("cat", "/proc/sys/kernel/random/boot_id", "/etc/machine-id").stdout.split()
    with started(cluster.ssh(node, COUNT)) as session:
        assert read(session)
        pids = [process.pid_outside for process in node.processes()]
        assert len(pids) >= 3
        node.kill()
        node.kill()
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        assert node.processes() == []
        drain(session, quiet_s=0.5)
        with pytest.raises(ClusterError, match="switched off"):
            node.run("true")
        node.start()
    assert ssh(cluster, node, "cat kept; ls -A /dev/shm") == "kept"
    after = node.run("cat", "/proc/sys/kernel/random/boot_id", "/etc/machine-id").stdout.split()
    assert after[0] != before[0] and after[1:] == before[1:]


@pytest.mark.cluster
def test_sshd_restarts_with_other_options_under_open_sessions(cluster: Cluster, node: NodeHost) -> None:
    with started(cluster.ssh(node, COUNT)) as session:
        assert read(session)
        node.restart_sshd({"acceptenv": "COLOUR"})
        argv = [*cluster.ssh(node), "-o", "SetEnv=COLOUR=blue", "echo $COLOUR"]
        assert subprocess.check_output(argv, text=True, timeout=LIMIT_S) == "blue\n"
        assert read(session)
        assert node.kill_sshd_sessions()
        until(lambda: read(session) == b"", "the killed session goes on")
        assert session.wait(LIMIT_S) == 255
    assert ssh(cluster, node, "hostname") == "node2\n"


@pytest.mark.cluster
def test_the_inventory_names_the_hosts(cluster: Cluster) -> None:
    text = cluster.hosts_yaml(
        per_host={"node2": {"gpus": 2}}, defaults={"workdir": "~/w"}, rendezvous={"port": 29511}, spares=["node3"]
    )
    inventory = yaml.safe_load(text)
    assert list(inventory["hosts"]) == ["node1", "node2", "node3"]
    assert inventory["hosts"]["node2"] == {"address": cluster.hosts[1].address, "gpus": 2}
    assert inventory["defaults"] == {
        "user": "root",
        "identity_file": str(cluster.identity_file),
        "env": {"OMP_NUM_THREADS": "1"},
        "python": sys.executable,
        "workdir": "~/w",
    }
    assert (inventory["rendezvous"], inventory["spares"]) == ({"port": 29511}, ["node3"])


@pytest.mark.cluster
def test_a_second_cluster_has_its_own_network_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "hidden").mkdir()
    with started(["true"]) as gone:
        gone.wait()
    left = Path(tempfile.mkdtemp(prefix=f"orch-cluster-{gone.pid}-"))
    before = uplinks(os.getpid())
    second = Cluster(2, names=["alpha"], visible=[tmp_path / "shown"], sshd_options={"MaxSessions": "1"})
    second.start()
    try:
        assert not left.exists(), "the folder of a dead maker is left"
        assert second.switch.prefix != cluster.switch.prefix
        assert [host.name for host in second.hosts] == ["alpha", "node2"]
        assert ssh(second, second["alpha"], "hostname") == "alpha\n"
        assert second.hosts[1].run("test", "-d", tmp_path / "shown").returncode == 0
        if tmp_path.is_relative_to("/tmp"):
            assert second.hosts[1].run("test", "-d", tmp_path / "hidden").returncode == 1
        folder = second.folder
        spaces = network_spaces(str(folder))
        assert len(spaces) == 3
        assert len(uplinks(os.getpid())) == len(before) + 1
    finally:
        second.stop()
    second.stop()
    assert uplinks(os.getpid()) == before
    assert str(folder) not in Path("/proc/self/mounts").read_text()
    assert not folder.exists()
    assert not spaces & network_spaces()
    assert ssh(cluster, cluster.hosts[0], "hostname") == "node1\n"


@pytest.mark.cluster
def test_a_host_that_cannot_start_says_why_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    before = uplinks(os.getpid())
    broken = Cluster(1, folder=tmp_path, sshd_options={"NoSuchOption": "yes"})
    with pytest.raises(ClusterError, match=r"(?s)node1: it ended.*NoSuchOption"):
        broken.start()
    assert uplinks(os.getpid()) == before
    assert (tmp_path / "node1" / "log").exists(), "a given folder is kept"


@pytest.mark.cluster
def test_sigkill_of_the_maker_ends_its_hosts(cluster: Cluster) -> None:
    argv = [sys.executable, "-m", "tests.namespaces", "up", "2", "--mbit", "50"]
    with started(argv, cwd=REPOSITORY) as maker:
        printed = b""
        while b"A shell on" not in printed:
            piece = read(maker)
            assert piece, "the script ended"
            printed += piece
        home = next(line.split("=", 1)[1] for line in printed.decode().splitlines() if "export HOME=" in line)
        inventory = yaml.safe_load((Path(home).parent / "hosts.yaml").read_text())
        assert list(inventory["hosts"]) == ["node1", "node2"]
        spaces = network_spaces(str(Path(home).parent))
        assert (len(spaces), len(uplinks(maker.pid))) == (3, 1)
        maker.kill()
        maker.wait()
    until(lambda: not Path(home).parent.exists(), "the folder is left")
    until(lambda: not uplinks(maker.pid), "the uplink is left")
    until(lambda: not spaces & network_spaces(), "processes are left")


@pytest.mark.cluster
def test_sigkill_of_the_keeper_ends_its_hosts(cluster: Cluster) -> None:
    before = uplinks(os.getpid())
    with Cluster(1) as doomed:
        folder, init = doomed.folder, doomed.hosts[0].pid
        os.kill(doomed.switch.pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{init}").exists(), "the host is left")
    assert not folder.exists()
    assert uplinks(os.getpid()) == before


def test_require_skips_or_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests.namespaces, "missing", lambda: "no namespaces here")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no namespaces here"):
        require()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no namespaces here"):
        require()


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"n": 201}, {"n": 1, "names": ["a", "b"]}, {"n": 2, "names": ["node2"]}]
)
def test_a_cluster_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        Cluster(**wrong)  # type: ignore[arg-type]  # the wrong values are the point
