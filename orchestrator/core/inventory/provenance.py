"""What each key of a hosts file came to, and where the value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.core.inventory.hostrange import RangeError, expand
from orchestrator.core.inventory.hosts import Host, Inventory
from orchestrator.core.inventory.parsing import CONNECTION_KEYS
from orchestrator.core.inventory.schema import OUTPUTS_KEYS, OWN_KEYS, RENDEZVOUS_KEYS, SHARED_KEYS, SLURM_KEYS
from orchestrator.core.text.secret import masked, redacted

Value: TypeAlias = "str | int | float | tuple[str, ...] | None"

DEFAULT = "default"
SANDBOX = "sandbox"
# What orch does where a key has no value.
UNSET = {
    "fabric_address": "found at each start",
    "interface": "found at each start",
    "gpus": "counted on the host",
    "nproc": "one per GPU, else one",
    "python": "python3",
    "host_key": "not recorded yet",
    "identity_file": "the agent's keys and ~/.ssh/id_*",
    "rendezvous.port": "a free one from 29500 on",
    "rendezvous.interface": "found at each start",
    "rendezvous.id": "the run's id",
    "rendezvous.endpoint": "the master",
    "grace": "30 s, and 3 s after a failure",
    "scheduler.slurm.partition": "Slurm's default",
    "scheduler.slurm.account": "Slurm's default",
    "scheduler.slurm.time": "the partition's limit",
}
BY_SANDBOX = {
    **dict.fromkeys(CONNECTION_KEYS, "given when the sandbox starts"),
    "python": "the interpreter that runs orch",
}
_SIZES = ("outputs.max_size", "outputs.max_log")


@dataclass(frozen=True)
class Origin:
    """The value of a key, with secrets masked, and where it comes from. None: the key has no value."""

    key: str
    value: Value
    source: str

    @property
    def text(self) -> str:
        """The value as a reader sees it; for a key without a value, what orch does then."""
        match self.value:
            case None if self.source == SANDBOX:
                return BY_SANDBOX[self.key]
            case None | ():
                return UNSET.get(self.key, "none")
            case bool(flag):
                return str(flag).lower()
            case int(size) if self.key in _SIZES and size % (1 << 20) == 0:
                return f"{size >> 30} GiB" if size % (1 << 30) == 0 else f"{size >> 20} MiB"
            case tuple(several):
                return ", ".join(several)
        return str(self.value)


def of_hosts(
    inventory: Inventory, document: Any, ssh: Mapping[str, Mapping[str, tuple[Value, str]]]
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
        place = inventory.places.get(host.name)
        given |= dict.fromkeys(body, place or f"{source}: {where}") | _of_login(inventory)
        passing = [(source, document), (f"{source}: defaults", defaults), (f"{source}: {where}", body)]
        if names := [place for place, keys in passing if keys.get("pass_env")]:
            # The lists add up.
            given["pass_env"] = ", ".join(names)
        added = dict.fromkeys(BY_SANDBOX, (None, SANDBOX)) if inventory.sandbox else ssh.get(host.name, {})
        if inventory.rendezvous.interface is not None:
            added = {**added, "interface": (inventory.rendezvous.interface, "rendezvous.interface")}
        env = dict.fromkeys(_variables(defaults), f"{source}: defaults")
        env |= dict.fromkeys(_variables(body), f"{source}: {where}")
        named = f"the host's name, {place}" if place else "the host's name"
        found[host.name] = list(_of_host(host, given, env, added, named))
    return found


def _of_login(inventory: Inventory) -> dict[str, str]:
    """Return where the keys of the login node come from that ``scheduler:`` gives; none for other hosts."""
    if inventory.scheduler is None:
        return {}
    hop, where = inventory.scheduler.login, f"{inventory.source}: scheduler.slurm"
    named = [] if hop is None else [key for key in ("user", "port") if getattr(hop, key) is not None]
    return {**dict.fromkeys(("address", *named), f"{where}.login"), "workdir": where}


def of_cluster(inventory: Inventory, document: Mapping[str, Any]) -> list[Origin]:
    """Return the origins of the keys that concern the cluster as a whole."""
    values: dict[str, Any] = {"cluster": inventory.cluster, "sandbox": inventory.sandbox}
    values |= {"master": inventory.master.name, "spares": inventory.spares, "grace": inventory.grace}
    values["data"] = tuple(each.path for each in inventory.data)
    values |= {f"rendezvous.{key}": getattr(inventory.rendezvous, key) for key in RENDEZVOUS_KEYS}
    if inventory.scheduler is not None:
        own = (key for key in SLURM_KEYS if key not in ("login", "workdir"))
        values |= {f"scheduler.slurm.{key}": getattr(inventory.scheduler, key) for key in own}
    sizes = {"max_size": "max_bytes"}
    values |= {f"outputs.{key}": getattr(inventory.outputs, sizes.get(key, key)) for key in OUTPUTS_KEYS}
    found = []
    for key, value in values.items():
        *above, below = key.split(".")
        body: Any = document
        for name in above:
            body = body.get(name) if isinstance(body, Mapping) else None
        given = isinstance(body, Mapping) and below in body
        found.append(Origin(key, _hidden(value), inventory.source if given else DEFAULT))
    return found


def _of_host(
    host: Host,
    given: Mapping[str, str],
    env: Mapping[str, str],
    added: Mapping[str, tuple[Value, str]],
    named: str,
) -> Iterator[Origin]:
    for key in (*OWN_KEYS, *SHARED_KEYS):
        if key == "env":
            continue
        value = _passed(host) if key == "pass_env" else getattr(host, key)
        if key == "environment" and key not in given and value is not None:
            # ``env:`` may name the file, too.
            yield Origin(key, _hidden(value), given.get("env", DEFAULT))
        elif key in given:
            yield Origin(key, _hidden(value), given[key])
        elif key in added:
            yield Origin(key, _hidden(added[key][0]), added[key][1])
        else:
            yield Origin(key, _hidden(value), named if key == "address" else DEFAULT)
        if key == "address" and key in given and key in added:
            yield Origin("dialled", _hidden(added[key][0]), added[key][1])
    for name, value in redacted(host.env).items():
        yield Origin(f"env.{name}", value, env.get(name, DEFAULT))


def _passed(host: Host) -> tuple[str, ...]:
    """Return the names of the variables that ``pass_env`` found on this machine, and of those that it did not."""
    return (*host.passed, *(f"{name} (not set)" for name in host.not_set))


def _hidden(value: Any) -> Value:
    if isinstance(value, (tuple, list)):
        return tuple(masked(str(each)) for each in value)
    return value if value is None or isinstance(value, (bool, int, float)) else masked(str(value))


def _variables(body: Mapping[str, Any]) -> list[str]:
    env = body.get("env")
    return list(env) if isinstance(env, dict) else []


def _bodies(document: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return the path and the keys of each host; hosts of a range share theirs."""
    hosts = document.get("hosts")
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for key, body in (hosts if isinstance(hosts, Mapping) else {}).items():
        try:
            names = expand(str(key))
        except RangeError:
            names = [str(key)]
        found |= {name: (f"hosts.{key}", body or {}) for name in names}
    return found
