"""What each key of a hosts file came to, and where the value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.inventory.hostrange import RangeError, expand
from orchestrator.core.inventory.hosts import CONNECTION_KEYS, Host, Inventory
from orchestrator.core.inventory.schema import OUTPUTS_KEYS, OWN_KEYS, RENDEZVOUS_KEYS, SHARED_KEYS
from orchestrator.core.text.secret import masked, redacted

DEFAULT = "default"
# What orch does where a key has no value, in place of the value.
UNSET = {
    "fabric_address": "found at each start",
    "interface": "found at each start",
    "gpus": "counted on the host",
    "nproc": "one per GPU, else one",
    "python": "python3",
    "environment": "none",
    "host_key": "any that known_hosts records",
    "jump": "none",
    "identity_file": "the agent's keys and ~/.ssh/id_*",
    "port": "22",
    "user": "your own name",
    "rendezvous.port": "a free one from 29500 on",
    "rendezvous.interface": "found at each start",
    "rendezvous.id": "the run's id",
    "rendezvous.endpoint": "the master",
    "grace": "30 s, and 3 s after a failure",
    "spares": "none",
    "data": "none",
}
# A value that a sandbox host gets when the sandbox starts.
BY_SANDBOX = ("given when the sandbox starts", "sandbox")


@dataclass(frozen=True)
class Origin:
    """The value of a key, with secrets masked, and where it comes from."""

    key: str
    value: str
    source: str


def of_hosts(
    inventory: Inventory, document: Any, ssh: Mapping[str, Mapping[str, tuple[str, str]]]
) -> dict[str, list[Origin]]:
    """Return the origins of each host's keys by host name.

    ``document``: the hosts file as loaded. ``ssh``: by host and key, what SSH adds where the file says nothing,
    and where that comes from.
    """
    source = inventory.source
    own = _bodies(document)
    defaults = document.get("defaults") or {}
    found = {}
    for host in inventory.hosts:
        where, body = own.get(host.name, ("", {}))
        given = dict.fromkeys(defaults, f"{source}: defaults")
        given |= dict.fromkeys(body, f"{source}: {where}")
        added = dict.fromkeys(CONNECTION_KEYS, BY_SANDBOX) if inventory.sandbox else ssh.get(host.name, {})
        env = dict.fromkeys(_variables(defaults), f"{source}: defaults")
        env |= dict.fromkeys(_variables(body), f"{source}: {where}")
        found[host.name] = list(_of_host(host, given, env, added))
    return found


def of_cluster(inventory: Inventory, document: Mapping[str, Any]) -> list[Origin]:
    """Return the origins of the keys that concern the cluster as a whole."""
    values: dict[str, Any] = {"cluster": inventory.cluster, "sandbox": inventory.sandbox}
    values |= {"master": inventory.master.name, "spares": inventory.spares, "grace": inventory.grace}
    values["data"] = [each.path for each in inventory.data]
    values |= {f"rendezvous.{key}": getattr(inventory.rendezvous, key) for key in RENDEZVOUS_KEYS}
    sizes = {"max_size": "max_bytes"}
    values |= {f"outputs.{key}": getattr(inventory.outputs, sizes.get(key, key)) for key in OUTPUTS_KEYS}
    found = []
    for key, value in values.items():
        above, _, below = key.rpartition(".")
        body = document.get(above) if above else document
        given = isinstance(body, Mapping) and below in body
        found.append(Origin(key, _shown(key, value), inventory.source if given else DEFAULT))
    return found


def _of_host(
    host: Host, given: Mapping[str, str], env: Mapping[str, str], added: Mapping[str, tuple[str, str]]
) -> Iterator[Origin]:
    for key in (*OWN_KEYS, *SHARED_KEYS):
        value = getattr(host, key, None)
        if key == "env":
            continue
        if key == "environment" and key not in given and value is not None:
            # ``env:`` may name the file, too.
            yield Origin(key, _shown(key, value), given.get("env", DEFAULT))
        elif key in given:
            yield Origin(key, _shown(key, value), given[key])
        elif key in added:
            yield Origin(key, masked(added[key][0]), added[key][1])
        else:
            yield Origin(key, _shown(key, value), "the host's name" if key == "address" else DEFAULT)
        if key == "address" and key in given and key in added and added[key] != BY_SANDBOX:
            yield Origin("dialled", masked(added[key][0]), added[key][1])
    for name, value in redacted(host.env).items():
        yield Origin(f"env.{name}", value, env.get(name, DEFAULT))


def _shown(key: str, value: Any) -> str:
    if value is None or value == () or value == []:
        return UNSET.get(key, "none")
    if isinstance(value, bool):
        return "true" if value else "false"
    return masked(", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value))


def _variables(body: Mapping[str, Any]) -> list[str]:
    env = body.get("env")
    return list(env) if isinstance(env, dict) else []


def _bodies(document: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the path and the keys of each host; hosts of a range share theirs."""
    hosts = document.get("hosts")
    found = {}
    for key, body in (hosts if isinstance(hosts, Mapping) else {}).items():
        try:
            names = expand(str(key))
        except RangeError:
            names = [str(key)]
        found |= {name: (f"hosts.{key}", body or {}) for name in names}
    return found
