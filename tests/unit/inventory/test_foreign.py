"""Other tools' lists of hosts, as their documentation shows them: what is carried over, and what is named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.inventory.foreign.formats import detect
from orchestrator.core.inventory.hosts import Host
from orchestrator.errors import InventoryError, UsageError
from orchestrator.local.foreign import read_foreign
from orchestrator.local.hosts_file import read_inventory
from tests.conftest import ROOT, Orch

RECORDED = ROOT / "tests" / "recorded" / "hosts"
GPU = {
    "jump": ["ops@gateway.example.com"],
    "user": "ubuntu",
    "identity_file": "~/.ssh/gpu.pem",
    "python": "/opt/venv/bin/python",
}
EAST = {"user": "deploy", "jump": ["ops@203.0.113.4:2200"]}
BEHIND = {"user": "ubuntu", "identity_file": "~/.ssh/id_ed25519", "jump": ["jump@203.0.113.10:2200"]}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the tests from this machine's own OpenSSH configuration and inventories."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("file", "kind", "hosts"),
    [
        (
            "hosts.txt",
            "list of hosts",
            {
                "192.168.1.10": {"user": "ubuntu"},
                "192.168.1.11": {"user": "ubuntu", "port": 2222},
                "gpu01.example.com": {},
                "gpu02.example.com": {},
                "gpu03.example.com": {},
                "ip6-2001-db8--7": {"address": "2001:db8::7", "user": "root", "port": 22022},
            },
        ),
        (
            "etc-hosts",
            "list of hosts",
            {"node1.example.com": {"address": "10.0.0.11"}, "node2.example.com": {"address": "10.0.0.12"}},
        ),
        (
            "ssh_config",
            "OpenSSH configuration",
            {
                "gpu1": {"address": "10.0.1.11", **BEHIND},
                "gpu2": {"address": "10.0.1.12", "port": 2222, **BEHIND, "identity_file": "~/.ssh/second key"},
            },
        ),
        (
            "inventory.ini",
            "Ansible inventory",
            {
                **{f"www0{n}.example.com": {"user": "admin"} for n in (1, 2, 3)},
                "jumper": {"address": "192.0.2.50", "port": 5555, **GPU},
                "trainer-a": {**GPU, "user": "trainer"},
                "trainer-b": {**GPU, "user": "trainer"},
                "node1.example.com": {"port": 2222, **GPU},
            },
        ),
        (
            "inventory.yaml",
            "Ansible inventory",
            {
                "gpu01.example.com": EAST,
                "gpu02.example.com": EAST,
                "10.0.7.9": {"port": 2201, **EAST},
                "one.example.com": {"address": "192.0.2.61"},
            },
        ),
        ("hostfile", "DeepSpeed or MPI hostfile", {"worker-1": {"nproc": 4}, "worker-2": {"nproc": 4}}),
        (
            "openmpi-hosts",
            "DeepSpeed or MPI hostfile",
            {"node01": {"nproc": 10}, "node13": {"nproc": 8}, "node15": {"nproc": 2, "user": "admin"}},
        ),
        (
            "machinefile",
            "DeepSpeed or MPI hostfile",
            {"donner": {"nproc": 2}, "foo": {"nproc": 3}, "shakey": {"nproc": 2, "interface": "ib0"}},
        ),
        (
            "nodelist.txt",
            "Slurm node list",
            {
                **{f"node0{n}": {} for n in (1, 2, 3, 4, 7)},
                "gpu1": {},
                **{f"rack{rack}n{n}": {} for rack in (1, 2) for n in (1, 2)},
            },
        ),
        (
            "terraform.json",
            "Terraform output",
            {
                "instance1": {"address": "54.43.114.12", "fabric_address": "10.0.1.4"},
                "instance2": {"address": "52.122.13.4", "fabric_address": "10.0.1.5"},
                "instance3": {"address": "52.4.116.53", "fabric_address": "10.0.1.6"},
            },
        ),
        (
            "terraform-instances.json",
            "Terraform output",
            {"gpu-a": {"address": "10.1.0.4"}, "gpu-b": {"address": "10.1.0.5"}},
        ),
        ("accelerate", "Accelerate configuration", {"192.168.20.1": {"nproc": 4}}),
        (
            "accelerate-deepspeed",
            "Accelerate configuration",
            {"worker-1": {"nproc": 4}, "worker-2": {"nproc": 4}},
        ),
    ],
)
def test_hosts_are_read_as_the_other_tool_reads_them(file: str, kind: str, hosts: dict[str, Any]) -> None:
    found = read_foreign(RECORDED / file)
    assert (found.kind, {name: dict(keys) for name, keys in found.hosts.items()}) == (kind, hosts)
    assert list(found.hosts) == list(hosts)


@pytest.mark.parametrize(
    ("file", "notes"),
    [
        ("hosts.txt", []),
        (
            "etc-hosts",
            [
                "etc-hosts:2: localhost is left out: 127.0.0.1 is not the address of another machine",
                "etc-hosts:3: localhost is left out: ::1 is not the address of another machine",
            ],
        ),
        (
            "ssh_config",
            [
                "ssh_config:21: StrictHostKeyChecking is not carried over",
                "ssh_config:12: gpu2-old is left out: it is the same machine as gpu2",
                "ssh_config:23: the host github.com is left out: its user is git",
                "ssh_config: the host bastion is left out: other hosts are reached through it",
            ],
        ),
        (
            "inventory.ini",
            [
                "inventory.ini:2: the host mail.example.com is left out: its connection is local, not ssh",
                "inventory.ini:16: StrictHostKeyChecking of ansible_ssh_common_args is not carried over: orch always "
                "checks host keys",
                "inventory.ini:17: ansible_become_password is not carried over: orch keeps no passwords; orch keys "
                "installs a key",
                "inventory.ini: variables of your own are not carried over: http_port",
                "inventory.ini: the group cluster is not carried over: choose it with --nodes and the names of its 6 "
                "hosts",
                "inventory.ini: the group gpu is not carried over: choose it with --nodes "
                "'jumper,trainer-a,trainer-b'",
                "inventory.ini: the group webservers is not carried over: choose it with --nodes "
                "'www01.example.com,www02.example.com,www03.example.com'",
            ],
        ),
        (
            "inventory.yaml",
            [
                "inventory.yaml:5: the host mail.example.com is left out: its connection is winrm, not ssh",
                "inventory.yaml:10: ansible_password is not carried over: it is encrypted with Ansible Vault",
                "inventory.yaml:25: ansible_user is not carried over: '{{ west_user }}' is a template",
                "inventory.yaml: the group east is not carried over: choose it with --nodes "
                "'gpu01.example.com,gpu02.example.com,10.0.7.9'",
                "inventory.yaml: the group west is not carried over: choose it with --nodes 'one.example.com'",
            ],
        ),
        (
            "openmpi-hosts",
            ["openmpi-hosts:2: max_slots is not carried over: orch starts no more processes than slots"],
        ),
        (
            "terraform.json",
            [
                "terraform.json: the output password is left out: it is sensitive",
                "terraform.json: the output origin is left out: it does not list addresses of hosts",
                "terraform.json: the output lb_address is left out: it does not list addresses of hosts",
            ],
        ),
        (
            "accelerate",
            [
                "machine0.yaml:14: mixed_precision bf16 is not carried over: pass --launcher accelerate "
                "--mixed-precision bf16 to orch run"
            ],
        ),
    ],
)
def test_what_is_not_carried_over_is_named(file: str, notes: list[str]) -> None:
    assert list(read_foreign(RECORDED / file).notes) == notes
    assert "hunter2" not in str(notes) and "correct horse" not in str(notes)


def test_values_that_all_hosts_share_are_defaults() -> None:
    assert read_foreign(RECORDED / "terraform.json").defaults == {"user": "ubuntu"}
    assert read_foreign(RECORDED / "terraform-instances.json").defaults == {"jump": "203.0.113.9"}


def test_the_rendezvous_of_accelerate_is_carried_over() -> None:
    assert read_foreign(RECORDED / "accelerate-deepspeed").top == {"rendezvous": {"port": 29501}}


def test_a_configuration_of_accelerate_that_only_counts_machines_is_no_cluster() -> None:
    assert read_foreign(RECORDED / "accelerate").incomplete == (
        "num_machines is 2, and only the main one has an address (192.168.20.1): 1 more address is missing"
    )
    with pytest.raises(UsageError, match=r"1 more address is missing.*orch init --from"):
        read_inventory(RECORDED / "accelerate")


@pytest.mark.parametrize("file", sorted(each.name for each in RECORDED.iterdir() if each.name != "accelerate"))
def test_every_file_is_an_inventory(file: str) -> None:
    found = read_foreign(RECORDED / file)
    inventory = read_inventory(RECORDED / file)
    assert [host.name for host in inventory.hosts] == list(found.hosts)
    assert inventory.foreign and inventory.notes == found.notes


@pytest.mark.parametrize(
    ("written", "hosts"),
    [
        (
            "node1,node2,user@10.0.0.3:2222",
            [
                Host("node1", "node1"),
                Host("node2", "node2"),
                Host("10.0.0.3", "10.0.0.3", user="user", port=2222),
            ],
        ),
        ("gpu[01-04]", [Host(f"gpu0{n}", f"gpu0{n}") for n in range(1, 5)]),
        ("root@n[1-2]:2222", [Host(f"n{n}", f"n{n}", user="root", port=2222) for n in (1, 2)]),
        ("node1,", [Host("node1", "node1")]),
        ("10.0.0.3", [Host("10.0.0.3", "10.0.0.3")]),
        ("node1, node2", [Host("node1", "node1"), Host("node2", "node2")]),
        ("::1,[::1]:2222", [Host("ip6---1", "::1"), Host("ip6---1-2222", "::1", port=2222)]),
        (
            "127.0.0.1:2201,127.0.0.1:2202",
            [Host(n, "127.0.0.1", port=p) for n, p in (("127.0.0.1", 2201), ("127.0.0.1-2202", 2202))],
        ),
        ("slurm:node[01-02,07],gpu1", [Host(n, n) for n in ("node01", "node02", "node07", "gpu1")]),
        ("mpi:node1:4,node2:8", [Host("node1", "node1", nproc=4), Host("node2", "node2", nproc=8)]),
        ("plain:node1:4,node2", [Host("node1", "node1", port=4), Host("node2", "node2")]),
    ],
)
def test_hosts_need_no_file(written: str, hosts: list[Host]) -> None:
    assert list(read_inventory(Path(written)).hosts) == hosts


def test_a_file_goes_before_a_host_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "a,b").write_text("c\n")
    assert [host.name for host in read_inventory(Path("a,b")).hosts] == ["c"]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("hosts", "node1:2222\nnode2:22\n", "plain"),
        ("hosts", "node1:4 slots=4\n", "mpi"),
        ("machinefile", "node1:4\nnode2:4\n", "mpi"),
        ("my-hostfile", "node1\nnode2\n", "mpi"),
        ("hosts", "a\nb\n", "plain"),
        ("hosts", "[::1]:2222\n[fe80::1]\n", "plain"),
        ("hosts", "[gpu]\na\n", "ansible"),
        ("hosts", "a ansible_host=10.0.0.1\n", "ansible"),
        ("hosts", "gpu:\n  hosts:\n    a:\n", "ansible"),
        ("hosts", '{"_meta": {"hostvars": {}}}', "ansible"),
        ("hosts.yaml", "hosts: [a]\n", "orch"),
        ("hosts.yaml", "hosts: [a\n", "orch"),
        ("hosts.yaml", '{"hosts": {"a": {}}}', "orch"),
        ("hosts.yaml", "hsots: [a]\n", "orch"),
        ("hosts.yaml", "", "orch"),
        ("hosts.yaml", "# nothing\n", "orch"),
        ("config", "Host a\n  HostName b\n", "ssh"),
        ("config", "  host=a b\n", "ssh"),
        ("out.json", '["10.0.0.1", "10.0.0.2"]', "terraform"),
        ("hosts.json", '{"ips": {"value": ["10.0.0.1"]}}', "terraform"),
        ("c.yml", "num_machines: 2\nmachine_rank: 0\n", "accelerate"),
        ("nodes", "tux[0-3],gpu\n", "slurm"),
    ],
)
def test_the_content_tells_the_format(name: str, text: str, kind: str) -> None:
    assert detect(name, text) == kind


def test_what_may_be_ports_or_processes_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("node1:4\nnode2:4\n")
    with pytest.raises(InventoryError) as caught:
        read_foreign("hosts")
    assert str(caught.value) == (
        "hosts:1: 'node1:4': expected --hosts plain:hosts if 4 is a port, --hosts mpi:hosts if it counts processes"
    )
    assert read_foreign("plain:hosts").hosts["node1"] == {"port": 4}
    assert read_foreign("mpi:hosts").hosts["node1"] == {"nproc": 4}
    assert read_foreign("deepspeed:hosts").hosts["node1"] == {"nproc": 4}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "file", ["hosts.txt", "ssh_config", "inventory.ini", "inventory.yaml", "hostfile", "terraform.json"]
)
def test_files_from_windows_are_read_alike(file: str, encoding: str, tmp_path: Path) -> None:
    text = (RECORDED / file).read_text()
    (tmp_path / file).write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert read_foreign(tmp_path / file) == read_foreign(RECORDED / file)


def test_orchs_own_file_may_come_from_windows_too(tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_bytes("hosts:\r\n  a: {port: 23}\r\n".encode("utf-8-sig"))
    assert read_inventory(tmp_path / "hosts.yaml").hosts == (Host("a", "a", port=23),)
    assert not read_inventory(tmp_path / "hosts.yaml").foreign


def test_the_users_own_configuration_gives_names_alone(tmp_path: Path) -> None:
    (tmp_path / ".ssh" / "config.d").mkdir(parents=True)
    shutil.copy(RECORDED / "ssh_config", tmp_path / ".ssh" / "config")
    (tmp_path / ".ssh" / "config.d" / "more").write_text(
        "Host extra\n  HostName 10.9.9.9\n  ProxyCommand nc %h %p\n"
    )
    found = read_foreign("ssh:~/.ssh/config")
    # The configuration applies when orch connects, so nothing of it is copied, and nothing is lost.
    assert found.hosts == {"gpu1": {}, "gpu2": {}, "extra": {}}
    assert [note for note in found.notes if "left out" not in note] == []


def test_an_included_file_belongs_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.d").mkdir()
    shutil.copy(RECORDED / "ssh_config", tmp_path / "ssh_config")
    (tmp_path / "config.d" / "more").write_text("Host gpu9\n  HostName 10.9.9.9\n  ProxyCommand nc %h %p\n")
    found = read_foreign(tmp_path / "ssh_config")
    assert found.hosts["gpu9"] == {"address": "10.9.9.9", **BEHIND}


def test_a_proxy_command_that_only_forwards_is_a_jump() -> None:
    found = parsed("Host a\n ProxyCommand ssh -q -W %h:%p -p 2200 me@gate\nHost b\n ProxyCommand nc -X 5 %h %p\n")
    assert found.hosts == {"a": {"jump": ["me@gate:2200"]}, "b": {}}
    assert found.notes == (
        "config:4: ProxyCommand is not carried over: orch reaches hosts through jump hosts (jump:)",
    )


def test_a_dollar_sign_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "i").write_text("a ansible_ssh_private_key_file=/keys/$me\n")
    assert read_foreign("ansible:i").hosts["a"] == {"identity_file": "/keys/$$me"}
    assert read_inventory(Path("ansible:i")).hosts[0].identity_file == "/keys/$me"


def test_hosts_of_several_lists_are_a_clash(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"web_ips": {"value": ["10.0.0.1"]}, "gpu_ips": {"value": ["10.0.0.2"]}}')
    with pytest.raises(InventoryError) as caught:
        read_foreign("t.json")
    assert str(caught.value) == (
        "t.json: 'web_ips (1), gpu_ips (1)': expected one list of hosts; choose one: "
        "terraform output -json web_ips > hosts.json"
    )
    (tmp_path / "hosts.json").write_text('["10.0.0.1", "10.0.0.2"]')
    assert read_foreign("hosts.json").hosts == {
        "node1": {"address": "10.0.0.1"},
        "node2": {"address": "10.0.0.2"},
    }


def parsed(text: str) -> Any:
    from orchestrator.core.inventory.foreign.openssh import parse_openssh

    return parse_openssh({"config": text})


def test_equal_notes_of_several_lines_are_one() -> None:
    text = "".join(f"Host n{n}\n  StrictHostKeyChecking no\n" for n in range(40))
    assert parsed(text).notes == ("config:2: StrictHostKeyChecking is not carried over (and in 39 more places)",)


def test_a_verb_prints_each_note_once(local_orch: Orch) -> None:
    words = ["plan", "--offline", "hello", "--nproc", "1", "--hosts", str(RECORDED / "inventory.ini")]
    done = local_orch(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ansible_become_password is not carried over") == 1
    assert "node1.example.com" in done.stdout and "not carried over" not in done.stdout


def test_the_options_of_a_verb_name_what_hosts_may_be(local_orch: Orch) -> None:
    shown = " ".join(local_orch("exec", "--help").stdout.split())
    assert "node1,node2,user@10.0.0.3:2222" in shown and "FORMAT:FILE" in shown


def test_the_gpus_of_an_accelerate_configuration_are_a_variable(tmp_path: Path) -> None:
    config = tmp_path / "accelerate.yaml"
    text = "num_machines: 1\nnum_processes: 2\nmain_process_ip: 10.0.0.1\ngpu_ids: {}\n"
    for written, expected in (("0,1", {"env": {"CUDA_VISIBLE_DEVICES": "0,1"}}), ("all", {}), ("null", {})):
        config.write_text(text.format(written))
        assert read_foreign(config).defaults == expected
    config.write_text(text.format("first"))
    with pytest.raises(InventoryError, match="4: 'first': expected gpu_ids: all, or numbers such as 0,1"):
        read_foreign(config)
