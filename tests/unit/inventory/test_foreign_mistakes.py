"""Broken lists of hosts give one line each: file and line, the value, and what was expected."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.inventory.foreign.formats import OWN, PARSERS, detect
from orchestrator.errors import InventoryError, OrchError
from orchestrator.local.foreign import read_foreign
from orchestrator.local.hosts_file import read_inventory
from tests.unit.inventory.test_foreign import RECORDED, home

__all__ = ["home"]
DESTINATION = "[user@]host[:port], such as node1 or ubuntu@10.0.0.3:2222"
PORT = "a port from 1 to 65535"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (
            "hosts.txt",
            "node1\nnode 2\n",
            "hosts.txt:2: 'node 2': expected one host a line, or commas between hosts",
        ),
        ("hosts.txt", "node1\nnode2:99999\n", f"hosts.txt:2: 'node2:99999': expected {DESTINATION}"),
        ("hosts.txt", "a\n10.0.0.300\n", f"hosts.txt:2: '10.0.0.300': expected {DESTINATION}"),
        ("hosts.txt", "a\n$(reboot)\n", f"hosts.txt:2: '$(reboot)': expected {DESTINATION}"),
        (
            "hosts.txt",
            "a\n\nb\na\n",
            "hosts.txt:4: 'a': expected a machine that is not listed before; a is the same (hosts.txt:1)",
        ),
        (
            "hosts.txt",
            "gpu[04-01]\n",
            "hosts.txt:1: 'gpu[04-01]': expected a range such as gpu[01-04]; [04-01] runs backwards",
        ),
        (
            "hosts.txt",
            "gpu[01-04\n",
            "hosts.txt:1: 'gpu[01-04': expected [user@]host[:port], such as node1 or ubuntu@10.0.0.3:2222",
        ),
        (
            "hosts.txt",
            "n[1-9999]\n",
            "hosts.txt:1: 'n[1-9999]': expected a range such as gpu[01-04]; [1-9999] expands to more than 4096 names",
        ),
        (
            "train.py",
            "import torch\n",
            "train.py:1: 'import torch': expected a list of hosts, or its format: --hosts FORMAT:train.py with plain, "
            "ssh, ansible, mpi, slurm, terraform, accelerate",
        ),
        ("hosts", "worker-1 slots=four\n", "hosts:1: 'four': expected a number of processes from 1 to 1024"),
        ("hosts", "worker-1 slots=4\nworker-2 slots\n", "hosts:2: 'slots': expected NAME=VALUE, such as slots=4"),
        ("hosts", "worker-1 slots=0\n", "hosts:1: '0': expected a number of processes from 1 to 1024"),
        (
            "hosts",
            "+n1 slots=2\n",
            "hosts:1: '+n1': expected a host name; relative nodes such as +n1 are only known to mpirun",
        ),
        ("config", "Host a\n  Port ssh\n", f"config:1: 'ssh': expected {PORT}"),
        (
            "config",
            "Host a\n  HostName\n",
            "config:2: 'HostName': expected a keyword and its value, such as HostName 10.0.0.3",
        ),
        ("config", "Host *\n  User me\n", "config: it names no host: expected at least one"),
        (
            "config",
            "Host a\n  ProxyJump me@gate:ssh\n",
            "config:1: 'me@gate:ssh': expected a jump host: [user@]host[:port]",
        ),
        ("inv.ini", "[gpu]\na ansible_port=x\n", f"inv.ini:2: 'x': expected {PORT}"),
        ("inv.ini", "[gpu]\na ansible_user=u b\n", "inv.ini:2: 'b': expected NAME=VALUE after the host"),
        (
            "inv.ini",
            "[gpu]\na[01:50\n",
            "inv.ini:2: 'a[01:50': expected a host or a range such as www[01:50].example.com",
        ),
        (
            "inv.ini",
            "[gpu:hosts]\na\n",
            "inv.ini:1: '[gpu:hosts]': expected [group], [group:vars] or [group:children]",
        ),
        (
            "inv.ini",
            "[gpu]\na x='1\n",
            'inv.ini:2: "a x=\'1": expected a host and its variables, with quotes that match',
        ),
        (
            "inv.ini",
            "[a:children]\nb\n[c]\nx\n",
            "inv.ini:2: 'b': expected the name of a group that has a section",
        ),
        (
            "inv.ini",
            "[a:children]\nb\n[b:children]\na\n",
            "inv.ini:2: 'b': expected a group that does not contain a",
        ),
        (
            "inv.ini",
            "[gpu]\na ansible_host='{{ ip }}'\n",
            "inv.ini:2: '{{ ip }}': expected an address; templates are only evaluated by Ansible",
        ),
        (
            "inv.ini",
            "$ANSIBLE_VAULT;1.1;AES256\n6233\n",
            "inv.ini:1: it is encrypted with Ansible Vault: expected what ansible-vault view prints",
        ),
        (
            "inv.yml",
            "all:\n  hosts:\n    - a\n",
            "inv.yml:3: 'a list of 1': expected hosts of all: a mapping, NAME: and its values",
        ),
        (
            "inv.yml",
            "all:\n  host:\n    a:\n",
            "inv.yml:2: 'host': expected hosts, children or vars in the group all",
        ),
        (
            "inv.yml",
            "all:\n  hosts: {a: {}, a: {}}\n",
            "inv.yml:2: 'a': expected hosts of all: a plain key that is not given twice",
        ),
        (
            "inv.yml",
            "all:\n  hosts:\n    a: [\n",
            "inv.yml:4: expected the node content, but found '<stream end>': expected YAML",
        ),
        ("inv.json", '{"_meta": {}}', "inv.json: JSON: expected what ansible-inventory --list --yaml prints"),
        (
            "t.json",
            '{"ips": {"value": []}}',
            "t.json: it names no host: expected at least one; t.json: the output ips is left out: it does not list addresses of hosts",
        ),
        (
            "t.json",
            '{"public_ips": {"value": ["1.2.3.4", "1.2.3.5"]}, "private_ips": {"value": ["10.0.0.1"]}}',
            "t.json: 'private_ips': expected as many addresses as in public_ips (2), not 1",
        ),
        (
            "a.yaml",
            "num_machines: 2\nmachine_rank: 0\nmain_process_ip: null\n",
            "a.yaml:3: None: expected main_process_ip: the address of the main machine",
        ),
        (
            "a.yaml",
            "num_machines: two\nmachine_rank: 0\nmain_process_ip: h\n",
            "a.yaml:1: 'two': expected num_machines: a whole number from 1 on",
        ),
        (
            "a.yaml",
            "num_machines: 2\nmachine_rank: 0\nmain_process_ip: h\nmain_process_port: high\n",
            f"a.yaml:4: 'high': expected {PORT}",
        ),
        ("hosts.yaml", "hosts:\n  a: {prot: 1}\n", "hosts.yaml: hosts.a.prot: unknown key; did you mean port?"),
        ("hosts.yaml", "", "hosts.yaml: the file is empty: expected at least 'hosts:' with one host"),
        ("hosts.yaml", "hosts: [a\n", "hosts.yaml: line 2, column 1: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_a_broken_file_gives_one_line(name: str, text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InventoryError) as caught:
        read_inventory(tmp_path / name)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (
            "slurm:node[1x2]",
            "--hosts: 'node[1x2]': expected ranges such as node[01-04,07]; write out nodes with coordinates",
        ),
        ("slurm:(null)", "--hosts: '(null)': expected a node name or range, as in $SLURM_JOB_NODELIST"),
        ("slurm:", "--hosts: it names no host: expected at least one"),
        (
            "node1,node1",
            "--hosts: 'node1': expected a machine that is not listed before; node1 is the same (--hosts)",
        ),
        ("a,-oProxyCommand=x", f"--hosts: '-oProxyCommand=x': expected {DESTINATION}"),
        (
            "node1:4,node2:4",
            "--hosts: 'node1:4': expected --hosts plain:LIST if 4 is a port, --hosts mpi:LIST if it counts processes",
        ),
    ],
)
def test_a_broken_list_gives_one_line(written: str, line: str) -> None:
    with pytest.raises(InventoryError) as caught:
        read_inventory(Path(written))
    assert str(caught.value) == line


def test_a_missing_file_names_the_ways_on() -> None:
    with pytest.raises(OrchError) as caught:
        read_inventory(Path("hosts.yaml"))
    assert str(caught.value) == (
        "cannot read the hosts file hosts.yaml: No such file or directory → write one with orch init, name the "
        "hosts: --hosts node1,node2 (a single name ends with a comma), or try orch on this machine: --hosts sandbox"
    )


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("f", b"\x7fELF\x02\x01\x01\x00", "cannot read the hosts file f: it is a binary file → pass a text file"),
        ("f", b"a\nb\xff\n", "cannot read the hosts file f: it is not UTF-8 text (byte 3) → pass a text file"),
        ("f", b"\xff\xfea", "cannot read the hosts file f: it is not UTF-8 text (byte 2) → pass a text file"),
        ("f", b"a\n" * (3 << 20), "the hosts file f is larger than 4 MiB: expected a list of hosts"),
    ],
)
def test_what_is_no_text_is_one_line(name: str, data: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(OrchError) as caught:
        read_inventory(Path(name))
    assert str(caught.value) == line


def test_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OrchError) as caught:
        read_inventory(Path("folder"))
    assert str(caught.value) == (
        "the hosts file folder is a folder, without a configuration of Accelerate in it → name a file in it, or name "
        "the hosts: --hosts node1,node2"
    )


def test_a_file_of_mistakes_shows_the_first_few(tmp_path: Path) -> None:
    (tmp_path / "hosts.txt").write_text("a\n" + "b c:d:e\n" * 30)
    with pytest.raises(InventoryError) as caught:
        read_inventory(Path("hosts.txt"))
    assert len(str(caught.value).splitlines()) == 6


def test_a_hostfile_that_is_missing_is_named(tmp_path: Path) -> None:
    text = (RECORDED / "accelerate-deepspeed" / "default_config.yaml").read_text()
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(OrchError, match=r"^c.yaml: deepspeed_hostfile hostfile: no such file beside it"):
        read_foreign("c.yaml")


@given(
    st.sampled_from([*PARSERS, None]),
    st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(
                [
                    each
                    for file in sorted(RECORDED.glob("*"))
                    if file.is_file()
                    for each in file.read_text().splitlines()
                ]
                + [
                    "a[1-3]",
                    "[",
                    "]",
                    "[a:vars]",
                    "[a:children]",
                    "a:",
                    "  b: !x {}",
                    "- ",
                    "{",
                    "}",
                    "null",
                    "\t",
                    "&a *a",
                ]
            ),
            max_size=12,
        ).map("\n".join),
    ),
)
@settings(max_examples=600, deadline=None)
def test_no_text_raises_anything_but_an_inventory_error(kind: str | None, text: str) -> None:
    with suppress(InventoryError):
        kind = kind or detect("hosts", text)
        if kind != OWN:
            found = PARSERS[kind]({"hosts": text})
            assert found.hosts and all(each.isprintable() for each in found.notes)


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_list_raises_anything_but_an_error_of_orch(written: str) -> None:
    if not os.path.lexists(written.replace("\0", "")):
        with suppress(OrchError):
            read_inventory(Path(written))
