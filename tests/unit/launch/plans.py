"""Facts, hosts and plans for the tests of launches."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.launch.plan import (
    LaunchPlan,
    RunSpec,
    Workload,
    assumed_facts,
    plan,
)
from orchestrator.errors import PreflightError, UsageError
from orchestrator.protocol.facts import Interface, Interpreter, Parts

SCRIPT = Workload("t.py", "script", "t.py")


def entries(text: str) -> tuple[Address, ...]:
    """Return the addresses or routes in a text such as ``eth0=10.0.0.1/24 ib0=fd00::1/64``."""
    split = [re.split("[=/]", word) for word in text.split()]
    return tuple(Address(interface, address, int(prefix)) for interface, address, prefix in split)


def facts(addresses: str = "", ssh: str | None = None, routes: str = "", **changes: Any) -> Facts:
    """Return facts about a node without GPUs; ``speeds`` maps interfaces to Mbit/s."""
    speeds = changes.pop("speeds", {})
    cards = {name: Interface(up=True, speed=speed, mtu=1500, kind="ethernet") for name, speed in speeds.items()}
    known = Facts(
        node="a",
        hostname="a",
        home="/home/u",
        user="u",
        system="Linux",
        path="/usr/bin",
        python=Interpreter(path="/usr/bin/python3"),
        gpus=0,
        addresses=entries(addresses),
        routes=entries(routes),
        ssh_address=ssh,
        free_port=29500,
        trees=(),
        running=None,
        parts=Parts(interfaces=cards) if cards else Parts(),
    )
    return replace(known, **changes)


def planned(
    *hosts: Host, known: dict[str, Facts] | None = None, meet: Rendezvous | None = None, **spec: Any
) -> LaunchPlan:
    """Return attempt 1, or ``attempt``, of ``run1`` on hosts in one network, by default one host ``a``."""
    attempt = spec.pop("attempt", 1)
    hosts = hosts or (Host("a", "a"),)
    found = known or {
        host.name: facts(f"eth0=10.0.0.{last}/24", f"10.0.0.{last}", hostname=host.name)
        for last, host in enumerate(hosts, 1)
    }
    asked = RunSpec(**{"workload": SCRIPT, **spec})
    return plan(hosts, meet or Rendezvous(), asked, found, "run1", attempt)


def refusal(*hosts: Host, **spec: Any) -> str:
    """Return the error that ``planned`` ends with."""
    with pytest.raises((UsageError, PreflightError)) as refused:
        planned(*hosts, **spec)
    return str(refused.value)


A, B, C = Host("a", "a"), Host("b", "b"), Host("c", "c")


def offline(*hosts: Host, **spec: Any) -> LaunchPlan:
    """Return a plan made without asking the nodes."""
    return planned(*hosts, known={host.name: assumed_facts(host) for host in hosts}, **spec)
