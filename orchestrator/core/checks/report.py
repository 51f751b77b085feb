"""The JSON report of ``orch doctor``, and the way back from it to ``Examined``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.checks.findings import Examined, Finding
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.sections.container import Container, Mount
from orchestrator.core.text.secret import masked, masked_line, masked_words, redacted
from orchestrator.errors import OrchError
from orchestrator.protocol.container.image import EngineFacts
from orchestrator.protocol.facts import Interpreter, Parts, Running
from orchestrator.protocol.probe import Probe

# The inventory fields that checks use. Keys and users stay out of a report.
OF_HOST = ("name", "address", "interface", "fabric_address", "gpus", "nproc", "workdir", "python", "environment")


def as_json(examined: Examined, findings: Sequence[Finding], errors: Sequence[OrchError]) -> str:
    """Return a JSON object with hosts, their facts, findings and the probes between nodes. Secrets are masked."""
    hosts = {
        host.name: {
            "inventory": {
                **{name: getattr(host, name) for name in OF_HOST},
                "env": redacted(host.env),
                "container": host.container and _container(host.container),
            },
            "facts": _facts(examined.facts[host.name]),
            "address": examined.addresses.get(host.name),
        }
        for host in examined.hosts
    }
    whole = {
        "backend": examined.backend,
        "port": examined.port,
        "one_machine": examined.one_machine,
        "hosts": hosts,
        "unreachable": {error.host or "?": str(error) for error in errors},
        "findings": [finding.as_fields() for finding in findings],
        "probes": {
            name: {other: found.to_wire() for other, found in others.items()}
            for name, others in examined.probes.items()
        },
        "pings": examined.pings,
        "requirements": list(examined.requirements),
        "logins": examined.logins,
    }
    return masked(json.dumps(whole, indent=1)) + "\n"


def _container(container: Container) -> dict[str, Any]:
    """Return a container as JSON values, with secrets in its options masked."""
    return {**asdict(container), "options": masked_words(container.options)}


def _host(inventory: Mapping[str, Any]) -> Host:
    """Return the host whose values these are."""
    told = inventory.get("container")
    if not told:
        return Host(**inventory)
    mounts = tuple(Mount(**mount) for mount in told["mounts"])
    container = Container(**{**told, "options": tuple(told["options"]), "mounts": mounts})
    return Host(**{**inventory, "container": container})


def _facts(known: Facts) -> dict[str, Any]:
    """Return all facts as JSON values. Command lines of foreign launchers may hold secrets and are masked."""
    launchers = known.parts.torchruns or ()
    hidden = tuple((pid, uid, masked_line(command)) for pid, uid, command in launchers)
    parts = known.parts.replace(torchruns=hidden) if launchers else known.parts
    told = {field.name: getattr(known, field.name) for field in fields(known)}
    return {
        **told,
        "python": known.python.to_wire(),
        "addresses": [asdict(each) for each in known.addresses],
        "routes": [asdict(each) for each in known.routes],
        "running": known.running and known.running.to_wire(),
        "engine": known.engine and known.engine.to_wire(),
        "parts": {name: part for name, part in parts.to_wire().items() if part is not None},
    }


def from_json(text: str) -> Examined:
    """Read the output of ``as_json``. Raises ValueError or KeyError if ``text`` is anything else."""
    whole = json.loads(text)
    facts = {}
    for name, host in whole["hosts"].items():
        known = host["facts"]
        running = known["running"] and Running.from_wire(known["running"])
        places = {key: tuple(Address(**each) for each in known[key]) for key in ("addresses", "routes")}
        python = Interpreter.from_wire(known["python"])
        lists = {"trees": tuple(known["trees"]), "leftovers": tuple(known["leftovers"])}
        parts = Parts.from_wire(known["parts"])
        engine = EngineFacts.from_wire(known["engine"]) if known.get("engine") else None
        messages = {"python": python, "running": running, "parts": parts, "engine": engine}
        facts[name] = Facts(**{**known, **places, **lists, **messages})
    return Examined(
        hosts=tuple(_host(host["inventory"]) for host in whole["hosts"].values()),
        facts=facts,
        probes={
            name: {other: Probe.from_wire(found) for other, found in others.items()}
            for name, others in whole["probes"].items()
        },
        pings=whole.get("pings", {}),
        addresses={name: host["address"] for name, host in whole["hosts"].items() if host["address"]},
        port=whole["port"],
        backend=whole["backend"],
        requirements=tuple(whole.get("requirements", ())),
        logins=whole.get("logins", {}),
        one_machine=whole["one_machine"],
    )
