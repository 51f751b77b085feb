"""``examples/terraform``: what it opens, and that ``orch init --from`` reads its outputs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.init import init
from orchestrator.local.hosts_file import read_inventory
from orchestrator.operations.setup.gathering import InitOptions
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from tests.conftest import ROOT
from tests.unit.inventory.test_foreign import RECORDED, home

__all__ = ["home"]
MODULE = ROOT / "examples" / "terraform"
FILES = sorted(MODULE.glob("*.tf"))


def plain(value: Any) -> Any:
    """Return a parsed value with quotes and the wrapping of expressions taken away."""
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items() if not str(key).startswith("__")}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, str) and value[:1] == value[-1:] == '"':
        return value[1:-1]
    if isinstance(value, str) and value.startswith("${") and value.endswith("}"):
        return value[2:-1]
    return value


@pytest.fixture(scope="module")
def blocks() -> dict[str, dict[str, Any]]:
    """The blocks of all files: by kind, then by type and name, ``aws_instance.node``."""
    hcl2 = pytest.importorskip("hcl2", reason="needs python-hcl2, of the dev extra")
    found: dict[str, dict[str, Any]] = {}
    for file in FILES:
        for kind, each in plain(hcl2.loads(file.read_text())).items():
            for block in each:
                for name, body in block.items():
                    inner = body.items() if kind in ("resource", "data") else [("", body)]
                    for label, content in inner:
                        found.setdefault(kind, {})[f"{name}.{label}".rstrip(".")] = content
    return found


def test_only_ssh_from_the_caller_comes_in(blocks: dict[str, dict[str, Any]]) -> None:
    resources = blocks["resource"]
    rules = {name: body for name, body in resources.items() if "ingress" in name}
    ssh, within = (rules.pop(f"aws_vpc_security_group_ingress_rule.{name}") for name in ("ssh", "within"))
    assert not rules
    # No rules within the group's own block, which would be added to these, and no other group.
    groups = [name for name in resources if "security_group" in name and "rule" not in name]
    assert groups == ["aws_security_group.nodes"] and not {"ingress", "egress"} & set(resources[groups[0]])
    assert ssh["for_each"] == "toset(var.ssh_from)" and ssh["cidr_ipv4"] == "each.value"
    assert (ssh["ip_protocol"], ssh["from_port"], ssh["to_port"]) == ("tcp", 22, 22)
    assert not {"cidr_ipv6", "prefix_list_id", "referenced_security_group_id"} & set(ssh)
    assert within["referenced_security_group_id"] == within["security_group_id"] == "aws_security_group.nodes.id"
    assert not {"cidr_ipv4", "cidr_ipv6"} & set(within)
    # The caller has to name the addresses, and the whole internet is refused.
    assert (
        "default" not in blocks["variable"]["ssh_from"]
        and ">= 8" in blocks["variable"]["ssh_from"]["validation"][0]["condition"]
    )
    assert resources["aws_instance.node"]["vpc_security_group_ids"] == ["aws_security_group.nodes.id"]


def test_machines_are_close_together_and_may_be_spot(blocks: dict[str, dict[str, Any]]) -> None:
    node = blocks["resource"]["aws_instance.node"]
    assert blocks["resource"]["aws_placement_group.close"]["strategy"] == "cluster"
    assert node["placement_group"] == "aws_placement_group.close.name"
    spot = node["dynamic"][0]["instance_market_options"]
    assert spot["for_each"].startswith("var.spot ?") and spot["content"][0]["market_type"] == "spot"
    assert node["root_block_device"][0]["delete_on_termination"] is True
    assert blocks["variable"]["spot"]["default"] is False
    assert blocks["terraform"]["required_providers"][0]["aws"]["source"] == "hashicorp/aws"


def test_every_name_that_is_used_is_declared(blocks: dict[str, dict[str, Any]]) -> None:
    text = "".join(file.read_text() for file in FILES)
    assert set(re.findall(r"\bvar\.(\w+)", text)) == set(blocks["variable"])
    assert set(re.findall(r"\blocal\.(\w+)", text)) == set(blocks["locals"])
    declared = {name.split(".")[1] for name in blocks["resource"]}
    assert set(re.findall(r"(?<!data\.)\baws_\w+\.(\w+)\.", text)) - {"ids"} <= declared
    assert set(re.findall(r"\bdata\.(\w+\.\w+)", text)) == set(blocks["data"])


def test_init_reads_the_outputs(blocks: dict[str, dict[str, Any]], tmp_path: Path, home: Path) -> None:
    outputs = blocks["output"]
    assert set(outputs) == {"nodes", "ssh_user"} and outputs["ssh_user"]["value"] == "var.ssh_user"
    attributes = ("public_ip", "private_ip")
    for name in attributes:
        assert f"{name} = node.{name}" in outputs["nodes"]["value"]
    # What terraform printed for these outputs, with machines in place of the provider's.
    source = RECORDED / "terraform-aws.json"
    assert set(json.loads(source.read_text())) == set(outputs)
    written = tmp_path / "hosts.yaml"
    assert init(InitOptions((), written, source=str(source), check=False), Questions(False), Display()) == 0
    made = read_inventory(written).hosts
    assert [(each.name, each.address, each.fabric_address, each.user) for each in made] == [
        ("node01", "198.51.100.1", "172.31.0.10", "ubuntu"),
        ("node02", "198.51.100.2", "172.31.0.11", "ubuntu"),
    ]


def test_terraform_formats_it_so() -> None:
    program = shutil.which("terraform") or shutil.which("tofu")
    if program is None:
        pytest.skip("needs terraform or tofu")
    done = subprocess.run([program, "fmt", "-check", "-diff", str(MODULE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
