"""A stranger's inventory, project or ssh configuration makes orch do nothing that its user did not ask for."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.core.inventory.edit import set_host_value
from orchestrator.core.inventory.hosts import DataSource
from orchestrator.core.inventory.known_hosts import KnownHosts
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.strictyaml import StrictYamlError, load
from orchestrator.core.text.secret import masked, masked_words, redacted
from orchestrator.errors import InventoryError, UsageError
from orchestrator.operations.delivery.consent import agreed_to, outside
from orchestrator.remote.ssh.config import with_included
from tests.conftest import Orch
from tests.namespaces import Cluster

SUBSTITUTIONS = ("x$(touch pwned)", "x;touch pwned", "x`touch pwned`", "${HOME}.example", "x y", "-oProxyCommand=x",
                 "x'y", "x\ny", "%h", "a/b", "x&y", "")  # fmt: skip


@pytest.mark.parametrize("bad", SUBSTITUTIONS)
@pytest.mark.parametrize("key", ["address", "user", "jump"])
def test_what_is_dialled_holds_nothing_for_a_shell_or_a_name_server(key: str, bad: str) -> None:
    text = yaml.safe_dump({"hosts": {"a": {key: bad}}})
    with pytest.raises(InventoryError) as caught:
        parse_inventory(text, environ={"HOME": "secret"})
    assert str(caught.value).startswith(f"hosts.yaml: hosts.a.{key}: ") and "secret" not in str(caught.value)
    assert ("${VAR} is not expanded here" in str(caught.value)) == ("$" in bad)


def test_what_addresses_users_and_jumps_are_like_is_taken() -> None:
    for address in ("gpu1", "gpu_1.example.com", "10.0.0.1", "fd00::1", "fe80::1%eth0", "1.2.3.4"):
        assert parse_inventory(yaml.safe_dump({"hosts": {"a": {"address": address}}})).master.address == address
    for user in ("root", "u.name", "name@domain.com", "DOMAIN\\name", "a-b_c+d"):
        assert parse_inventory(yaml.safe_dump({"hosts": {"a": {"user": user}}})).master.user == user
    for jump in ("bastion", "u@bastion:2222", "u@[fd00::1]:22", "10.0.0.1:22"):
        assert parse_inventory(yaml.safe_dump({"hosts": {"a": {"jump": jump}}})).master.jump == (jump,)


@pytest.mark.cluster
def test_an_address_never_reaches_a_shell_of_the_ssh_config(orch: Orch, cluster: Cluster) -> None:
    home = Path(cluster.control_env()["HOME"])
    config = home / ".ssh" / "config"
    config.write_text(f"Match exec \"echo %h >> {orch.folder}/heard\"\nHost *\n  ProxyCommand sh -c 'echo %h'\n")
    try:
        (orch.folder / "hosts.yaml").write_text("hosts: {a: {address: 'x$(touch pwned)'}}\n")
        result = orch("exec", "--", "true")
        assert result.returncode == 2 and "hosts.a.address: 'x$(touch pwned)': expected" in result.stderr
        assert not (orch.folder / "heard").exists() and not (orch.folder / "pwned").exists()
    finally:
        config.unlink()


def test_aliases_cannot_make_a_small_file_large() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    began = time.monotonic()
    with pytest.raises(StrictYamlError, match=r"has more than \d+ values once its aliases are expanded"):
        load(text + "hosts: *a8\n")
    assert time.monotonic() - began < 1.0
    assert load("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
    with pytest.raises(StrictYamlError, match="an anchor contains itself"):
        load("a: &a [*a]")


HOSTS = "hosts:\n  # the first\n  a: {address: 10.0.0.1, interface: eth0}\n  b:\n    address: 10.0.0.2\n"


@pytest.mark.parametrize(
    "evil", ["eth0, jump: evil", "eth0}\n  c: {address: evil", "x: y", "[a]", "*a", "eth0 # x"]
)
def test_a_value_from_a_node_changes_one_value_of_the_hosts_file(evil: str) -> None:
    for host in ("a", "b"):
        try:
            changed = set_host_value(HOSTS, host, "interface", evil)
        except UsageError as error:
            assert f"hosts.{host}.interface: " in str(error)
        else:
            wanted = load(HOSTS)
            wanted["hosts"][host]["interface"] = evil
            assert load(changed) == wanted and "# the first" in changed
    assert load(set_host_value(HOSTS, "b", "interface", "on"))["hosts"]["b"]["interface"] == "on"


def test_data_from_outside_the_project_goes_only_with_the_users_word(
    local_orch: Orch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    project = tmp_path / "project"
    project.mkdir()
    (project / ".orchignore").write_text("")
    (project / "link").symlink_to(secret)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    hosts = project / "hosts.yaml"
    hosts.write_text("sandbox: true\nhosts: {a: {}}\ndata: [link]\n")
    result = local_orch("sync", "--dry-run", "--hosts", "project/hosts.yaml", "--project", "project")
    assert result.returncode == 2, result.stderr
    assert f"hosts.yaml: data: {secret} is outside the project folder" in result.stderr
    named = [str(project / path) for path in ("../secret", "link", "inside")] + [str(secret)]
    assert outside(project, [DataSource(path, None) for path in (*named, "mnist")]) == [str(secret)] * 3
    with pytest.raises(UsageError, match="pass --yes once"):
        agreed_to([str(secret)], hosts, lambda question: False)
    agreed_to([str(secret)], hosts, lambda question: str(secret) in question)
    # Agreeing once is enough for this file and this path.
    agreed_to([str(secret)], hosts, None)
    with pytest.raises(UsageError):
        agreed_to([str(tmp_path / "other")], hosts, None)


def test_secrets_are_masked_by_name_and_by_value() -> None:
    assert masked("s3://me:pass@bucket/x http://h:80/ postgres://u:p%40ss@db") == (
        "s3://me:***@bucket/x http://h:80/ postgres://u:***@db"
    )
    shown = redacted({"HF_TOKEN": "x", "PROXY": "http://u:p@proxy:3128", "N": "1"})
    assert shown == {"HF_TOKEN": "***", "PROXY": "http://u:***@proxy:3128", "N": "1"}
    words = ["train.py", "--token", "abc", "--api-key=abc", "--hf_password", "abc", "--max-tokens", "5", "--tokenizer",
             "t", "--pad-token", "p", "--wandb-api-key", "abc", "--verbose"]  # fmt: skip
    assert " ".join(masked_words(words)).count("***") == 4
    assert masked_words(words)[7:12] == ["5", "--tokenizer", "t", "--pad-token", "p"]


def test_a_plan_shows_no_secret(local_orch: Orch) -> None:
    (local_orch.folder / "hosts.yaml").write_text("hosts: {a: {address: 10.0.0.1}}\n")
    (local_orch.folder / "t.py").write_text("")
    given = ("--env", "MY_TOKEN", "--env", "URL=http://u:hidden@h", "t.py", "--", "--api-key", "hidden")
    for form in ("table", "sh", "ps1", "json"):
        result = local_orch("plan", "--offline", "--format", form, *given, MY_TOKEN="hidden")
        assert result.returncode == 0 and "hidden" not in result.stdout + result.stderr, result.stdout


KEYS = [f"ssh-ed25519 {letter * 12}" for letter in "ABC"]


def test_a_revoked_key_is_not_trusted_wherever_else_it_is_listed() -> None:
    known = KnownHosts(
        [f"h {KEYS[0]}", f"h {KEYS[1]} comment", f"@revoked * {KEYS[0]}", f"@cert-authority *.x {KEYS[2]}"]
    )
    assert known.lookup("h") == (KEYS[1],)
    assert known.revoked("h") == (KEYS[0],)
    assert known.certified("a.x") and not known.certified("h") and known.lookup("a.x") == ()


def test_include_of_the_ssh_config_is_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1").write_text("Host a\n  Port 1\n")
    (tmp_path / "plain").write_text("User me\n")
    config = tmp_path / "config"
    config.write_text('Include d/* "plain"\nUser u\nHost b\n  Include plain\n')
    assert with_included(config, tmp_path) == [
        *("Host a", "  Port 1", "User me", "Host *", "User u", "Host b", "User me")
    ]
    config.write_text("Host b\n  Include d/1\n")
    with pytest.raises(ValueError, match="move it before the first Host"):
        with_included(config, tmp_path)
    config.write_text("Include config\n")
    with pytest.raises(ValueError, match="nested more than 16 deep"):
        with_included(config, tmp_path)


def host_key(cluster: Cluster, position: int) -> str:
    scan = ["ssh-keyscan", "-t", "ed25519", cluster.hosts[position].address]
    return subprocess.run(scan, capture_output=True, text=True, check=True).stdout.split(None, 1)[1].strip()


@pytest.mark.cluster
def test_every_hop_is_verified_and_a_revoked_key_ends_it(orch: Orch, cluster: Cluster) -> None:
    home = Path(cluster.control_env()["HOME"])
    known, config = home / ".ssh" / "known_hosts", home / ".ssh" / "config"
    usual = known.read_text() if known.exists() else None
    addresses = [host.address for host in cluster.hosts]
    inner = {"jump": f"root@{addresses[1]}", "address": addresses[2], "user": "root",
             "identity_file": str(cluster.identity_file)}  # fmt: skip
    (orch.folder / "hosts.yaml").write_text(json.dumps({"hosts": {"far": inner}}))
    lines = [f"{addresses[n]} {host_key(cluster, n)}" for n in range(3)]

    def said(recorded: list[str]) -> str:
        known.write_text("\n".join(recorded) + "\n")
        result = orch("exec", "--", "hostname")
        return result.stdout if result.returncode == 0 else result.stderr

    try:
        # The hop that the inventory names has a hop of its own in the ssh config.
        config.write_text(
            f"Host {addresses[1]}\n  ProxyJump root@{addresses[0]}\n  IdentityFile {cluster.identity_file}\n"
            f"Host *\n  IdentityFile {cluster.identity_file}\n"
        )
        assert said(lines) == "node3\n"
        for missing in range(3):
            heard = said([line for line in lines if not line.startswith(addresses[missing])])
            assert f"host key of {addresses[missing]} is not known" in heard
        assert "is REVOKED in known_hosts" in said([*lines, f"@revoked * {host_key(cluster, 2)}"])
        heard = said([*lines[:2], f"@cert-authority * {host_key(cluster, 0)}"])
        assert "only vouched for by a certificate" in heard and "pin it: host_key: SHA256:" in heard
    finally:
        config.unlink()
        known.unlink()
        if usual is not None:
            known.write_text(usual)
