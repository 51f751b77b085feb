"""``orch hosts``: what each key came to and where from, without a connection."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.core.inventory import provenance, strictyaml
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.schema import OWN_KEYS, SHARED_KEYS
from orchestrator.errors import UsageError
from orchestrator.remote.ssh.lookup import look_up
from tests.conftest import Orch

FILE = """
cluster: lab
defaults:
  user: ubuntu
  env: {A: 1, HF_TOKEN: hunter2}
  jump: gate
hosts:
  a: {address: 10.0.0.1, port: 2222, env: {A: 2, B: 3}}
  gpu[01-02]: {env: requirements.txt}
master: gpu01
rendezvous: {interface: eth0}
outputs: {max_log: 10 MiB}
"""


def origins(text: str, **ssh: dict[str, tuple[provenance.Value, str]]) -> dict[str, dict[str, tuple[str, str]]]:
    """Return each host's keys with their texts and sources."""
    found = provenance.of_hosts(parse_inventory(text), strictyaml.load(text), ssh)
    return {name: {each.key: (each.text, each.source) for each in keys} for name, keys in found.items()}


def test_where_each_value_comes_from() -> None:
    found = origins(FILE, a={"address": ("10.0.0.99", "~/.ssh/config"), "port": (22, "default")})
    assert list(found) == ["gpu01", "a", "gpu02"]
    a, gpu = found["a"], found["gpu02"]
    own, shared = "hosts.yaml: hosts.a", "hosts.yaml: defaults"
    assert (a["address"], a["port"], a["user"]) == (("10.0.0.1", own), ("2222", own), ("ubuntu", shared))
    assert gpu["interface"] == ("eth0", "rendezvous.interface")
    # ~/.ssh/config may map the address of the inventory to another one.
    assert a["dialled"] == ("10.0.0.99", "~/.ssh/config")
    assert (a["env.A"], a["env.B"], a["env.HF_TOKEN"]) == (("2", own), ("3", own), ("***", shared))
    assert a["jump"] == ("gate", shared)
    assert a["workdir"] == ("~/orch-work", "default") and a["python"] == ("python3", "default")
    assert gpu["address"] == ("gpu02", "the host's name") and "dialled" not in gpu
    assert gpu["environment"] == ("requirements.txt", "hosts.yaml: hosts.gpu[01-02]")
    assert gpu["env.A"] == ("1", shared) and gpu["nproc"] == ("one per GPU, else one", "default")


def test_every_key_of_a_host_has_a_row() -> None:
    found = origins("hosts: [a]")
    assert set(found["a"]) == {*OWN_KEYS, *SHARED_KEYS} - {"env"}
    assert all(text and source for text, source in found["a"].values())


def test_the_keys_of_the_cluster() -> None:
    found = {each.key: each for each in provenance.of_cluster(parse_inventory(FILE), strictyaml.load(FILE))}
    shown = {key: (each.text, each.source) for key, each in found.items()}
    assert shown["cluster"] == ("lab", "hosts.yaml") and shown["master"] == ("gpu01", "hosts.yaml")
    assert shown["rendezvous.interface"] == ("eth0", "hosts.yaml")
    assert shown["rendezvous.backend"] == ("static", "default")
    assert (shown["outputs.max_log"], shown["outputs.max_size"]) == (
        ("10 MiB", "hosts.yaml"),
        ("1 GiB", "default"),
    )
    assert shown["sandbox"] == ("false", "default") and shown["spares"] == ("none", "default")
    assert found["grace"].value is None and shown["data"] == ("none", "default")


def test_variables_that_are_passed_show_their_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "pass_env: [HF_TOKEN]\nhosts: {a: {pass_env: [WANDB_API_KEY, NO_SUCH]}, b: }\n"
    inventory = parse_inventory(text, environ={"HF_TOKEN": "hunter2", "WANDB_API_KEY": "hunter3"})
    found = provenance.of_hosts(inventory, strictyaml.load(text), {})
    a, b = ({each.key: each for each in found[name]}["pass_env"] for name in "ab")
    assert a.value == ("HF_TOKEN", "WANDB_API_KEY", "NO_SUCH (not set)")
    assert (a.source, b.source) == ("hosts.yaml, hosts.yaml: hosts.a", "hosts.yaml")
    assert b.value == ("HF_TOKEN",) and "hunter" not in str(found)


def test_a_sandbox_gives_its_hosts_what_ssh_needs() -> None:
    found = origins("sandbox: true\nhosts: [a]")["a"]
    assert found["port"] == ("given when the sandbox starts", "sandbox")
    assert found["python"] == ("the interpreter that runs orch", "sandbox")
    assert origins("sandbox: true\nhosts: {a: {python: /p}}")["a"]["python"] == ("/p", "hosts.yaml: hosts.a")


CONFIG = """
Host b alias
  HostName 10.0.0.9
  User bob
  Port 2200
  IdentityFile ~/.ssh/k
Host c
  ProxyCommand nc %h %p
Host b
  ProxyJump gate
"""


def test_what_ssh_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("LOGNAME", "me")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(CONFIG)
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIIAkVmKkXAnVWN9wLHLtFnGu5nVfUYoWbAhVRYyLvJTC"
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[10.0.0.9]:2200 ssh-ed25519 {key}\nc ssh-ed25519 {key}\n")
    b, c, d = look_up([Host("b", "b"), Host("c", "c"), Host("d", "c", port=99)]).values()
    file = "~/.ssh/config"
    assert (b["address"], b["user"], b["port"]) == (("10.0.0.9", file), ("bob", file), ("2200", file))
    assert b["identity_file"] == ((str(tmp_path / ".ssh" / "k"),), file) and b["jump"] == ("gate", file)
    ((said, source),) = [b["host_key"]]
    assert re.fullmatch(r"ssh-ed25519 SHA256:\S{43}", said[0]) and source == "known_hosts"  # type: ignore[index,arg-type]
    assert "address" not in c and c["jump"] == ("nc c 22", file) and c["host_key"][0]
    assert c["user"] == ("me", "user of this machine (default)") and d["host_key"] == ((), "known_hosts")


def test_a_config_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host a\nMatch nonsense\n")
    with pytest.raises(UsageError) as caught:
        look_up([Host("a", "a")])
    assert "config" in str(caught.value) and "\n" not in str(caught.value)


def test_the_verb(local_orch: Orch) -> None:
    (local_orch.folder / "hosts.yaml").write_text(FILE)
    shown = local_orch("hosts")
    assert shown.returncode == 0 and "hunter2" not in shown.stdout
    assert re.search(r"^user +gpu\[01-02\],a +ubuntu +hosts.yaml: defaults$", shown.stdout, re.MULTILINE), (
        shown.stdout
    )
    few = json.loads(local_orch("hosts", "--json", "--nodes", "a").stdout)
    assert list(few["hosts"]) == ["a"] and few["cluster"]["master"] == {"value": "gpu01", "from": "hosts.yaml"}
    assert few["hosts"]["a"]["port"] == {"value": 2222, "from": "hosts.yaml: hosts.a"}
    assert few["hosts"]["a"]["gpus"] == {"value": None, "from": "default"}
    assert json.loads(local_orch("hosts", "--schema").stdout)["$id"] == "urn:orch:hosts-file"
    wrong = local_orch("hosts", "--nodes", "b")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


def test_a_list_of_hosts_names_the_line_of_each_and_hosts_come_first(local_orch: Orch) -> None:
    (local_orch.folder / "hosts.txt").write_text("# lab\nubuntu@node1\n\nubuntu@node2:2222\n10.0.0.9 gpu1\n")
    done = local_orch("hosts", "--hosts", "hosts.txt")
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"\s{2,}", line) for line in done.stdout.splitlines()]
    assert ["address", "gpu1", "10.0.0.9", "hosts.txt:5"] in rows
    assert ["address", "node1", "node1", "the host's name, hosts.txt:2"] in rows
    assert ["user", "node[1-2]", "ubuntu", "hosts.txt:[2,4]"] in rows
    assert ["port", "node2", "2222", "hosts.txt:4"] in rows
    (user,) = [row for row in rows if row[:2] == ["user", "gpu1"]]
    assert user[3] == "user of this machine (default)"
    keys = [row[0] for row in rows]
    assert keys[:2] == ["key", "address"] and keys.index("cluster") > keys.index("pass_env")
    by_host = json.loads(local_orch("hosts", "--hosts", "hosts.txt", "--json").stdout)["hosts"]
    assert by_host["node2"]["user"] == {"value": "ubuntu", "from": "hosts.txt:4"}
