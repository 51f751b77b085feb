"""Parse the text of a hosts file into an Inventory, or report all its mistakes at once.

Each mistake is one line: the key's path, the value, what was expected, and the nearest known key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.core.inventory import strictyaml
from orchestrator.core.inventory.destination import is_endpoint, is_machine, is_user
from orchestrator.core.inventory.hostrange import RangeError, expand
from orchestrator.core.inventory.hosts import DataSource, Host, Inventory, Outputs, Rendezvous
from orchestrator.core.inventory.reading import NAME, Reader, nearest
from orchestrator.core.inventory.sections.container import Container
from orchestrator.core.inventory.sections.scheduler import Slurm, read_scheduler
from orchestrator.core.launch.variables import passed
from orchestrator.errors import InventoryError

CONNECTION_KEYS = ("address", "user", "port", "identity_file", "jump", "host_key")
# Names in a run's folder that would collide with a node's folder.
RESERVED_NAMES = re.compile(r"(logs|events\.jsonl|plan(\.attempt\d+)?\.json)\Z", re.IGNORECASE)


def parse_inventory(
    text: str, *, source: str = "hosts.yaml", environ: Mapping[str, str] | None = None
) -> Inventory:
    """Parse an inventory, resolving ``${VAR}`` from ``environ``; raises InventoryError with all its mistakes."""
    try:
        document = strictyaml.load(text)
    except strictyaml.StrictYamlError as error:
        raise InventoryError([str(error)], source=source) from None
    return inventory_of(document, source=source, environ=environ)


def inventory_of(document: Any, *, source: str, environ: Mapping[str, str] | None = None) -> Inventory:
    """Return the inventory that a loaded document describes; raises InventoryError with all its mistakes."""
    reader = _InventoryReader(environ or {})
    inventory = reader.inventory(document, source)
    if reader.problems or inventory is None:
        raise InventoryError(reader.problems or ["the file is empty"], source=source)
    return inventory


class _InventoryReader(Reader):
    """Reads a whole hosts file."""

    def inventory(self, document: Any, source: str) -> Inventory | None:
        if document is None:
            self.say("the file is empty: expected at least 'hosts:' with one host")
            return None
        known = (
            "cluster",
            "defaults",
            "hosts",
            "spares",
            "master",
            "rendezvous",
            "outputs",
            "data",
            "sandbox",
            "grace",
            "pass_env",
            "scheduler",
        )
        top = self.mapping(document, "", known)
        cluster = self.take(top, "cluster", "", self.name, "cluster")
        sandbox = self.take(top, "sandbox", "", self.boolean, False)
        defaults = self.host_keys(top.get("defaults"), "defaults", defaults=True)
        defaults["pass_env"] = (
            *self.take(top, "pass_env", "", self.passed, ()),
            *defaults.get("pass_env", ()),
        )
        scheduler = read_scheduler(self, top["scheduler"]) if "scheduler" in top else None
        if "scheduler" in top:
            hosts = self.login_host(top, scheduler, defaults)
        else:
            hosts = self.hosts(top.get("hosts"), defaults, sandbox, "hosts" in top)
        names = [host.name for host in hosts]
        spares = tuple(self.host_names(top.get("spares"), "spares", names))
        if hosts and set(names) == set(spares):
            self.say("spares: every host is a spare: expected at least one that is not")
        hosts = self.master_first(top.get("master"), hosts, spares)
        return Inventory(
            cluster=cluster,
            hosts=tuple(hosts),
            spares=spares,
            rendezvous=self.rendezvous(top.get("rendezvous")),
            outputs=self.outputs(top.get("outputs")),
            sandbox=sandbox,
            source=source,
            data=tuple(self.data(top.get("data"))),
            grace=self.take(top, "grace", "", self.seconds, None),
            scheduler=scheduler,
        )

    def login_host(
        self, top: Mapping[str, Any], scheduler: Slurm | None, defaults: Mapping[str, Any]
    ) -> list[Host]:
        """Return the host where jobs are submitted, which has the keys of ``defaults``."""
        for key in ("hosts", "spares", "master", "sandbox"):
            if key in top:
                self.say(f"{key}: a scheduler chooses the nodes: expected this key or scheduler:, not both")
        if defaults.get("container"):
            self.say("defaults.container: jobs of Slurm run without a container: leave it out, or list hosts:")
        if scheduler is None:
            return []
        where = scheduler.login
        name = where.host if where is not None and NAME.match(where.host) else "login"
        own: dict[str, Any] = {"address": "localhost" if where is None else where.host}
        own |= {} if where is None or where.user is None else {"user": where.user}
        own |= {} if where is None or where.port is None else {"port": where.port}
        host = self.host(name, {}, "scheduler.slurm.login", {**defaults, "workdir": scheduler.workdir})
        return [replace(host, **own)]

    def host_keys(self, value: Any, path: str, *, defaults: bool = False) -> dict[str, Any]:
        """Read the keys of one host or of ``defaults``; absent and invalid keys are left out of the result."""
        readers: dict[str, Callable[[Any, str], Any]] = {
            "user": self.dialled(is_user, "a user name"),
            "port": self.integer(1, 65535),
            "identity_file": self.text,
            "jump": self.jump,
            "interface": self.interface,
            "gpus": self.integer(0, 1024),
            "nproc": self.integer(1, 1024),
            "workdir": self.text,
            "python": self.text,
            "environment": self.text,
            "env": self.variables_or_environment,
            "pass_env": self.passed,
            "container": self.container,
        }
        if not defaults:
            own = {
                "address": self.dialled(is_machine, "a host name or address"),
                "host_key": self.host_key,
                "fabric_address": self.address,
            }
            readers = {**own, **readers}
        body = self.mapping(value, path, tuple(readers))
        read = {key: self.take(body, key, path, readers[key]) for key in body}
        if isinstance(read.get("env"), str):
            if "environment" in read:
                self.say(f"{path}.env: names {read['env']!r}, but environment is set: expected one of the two")
            read["environment"] = read.pop("env")
        return {key: item for key, item in read.items() if item is not None}

    def variables_or_environment(self, value: Any, path: str) -> dict[str, str] | str | None:
        """Read a mapping of variables, or the name of the file that describes an environment."""
        return self.text(value, path) if isinstance(value, str) else self.environment(value, path)

    def hosts(self, value: Any, defaults: Mapping[str, Any], sandbox: bool, given: bool) -> list[Host]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            doubled = sorted({item for item in value if value.count(item) > 1})
            for item in doubled:
                self.say(f"hosts.{item}: the host is given twice: expected different names")
            value = dict.fromkeys(value)
        if not isinstance(value, dict) or not value:
            self.problem("hosts", value, "a mapping with at least one host" if given else "the key to be present")
            return []
        hosts: dict[str, Host] = {}
        for key, body in value.items():
            path = f"hosts.{key}"
            if not isinstance(key, str):
                self.problem(path, key, "a name (quote it)")
                continue
            for name, each in self.expanded_host(key, body, path):
                if name in hosts:
                    self.say(f"{path}: the host {name} is given twice: expected different names")
                    continue
                if sandbox:
                    for unused in sorted(set(CONNECTION_KEYS) & set(each)):
                        self.say(f"{path}.{unused}: a sandbox host has no such key: expected it to be left out")
                hosts[name] = self.host(name, each, path, defaults)
        if not sandbox:
            self.refuse_same_machine(hosts)
        return list(hosts.values())

    def expanded_host(self, key: str, body: Any, path: str) -> list[tuple[str, dict[str, Any]]]:
        """Return a name and a body for each host that ``key`` stands for; ranges of addresses expand in step."""
        try:
            names = expand(key)
        except RangeError as error:
            self.problem(path, key, f"a name or range; {error}")
            return []
        for name in names:
            if not NAME.match(name):
                self.problem(path, name, "letters, digits, '.', '_' and '-', at most 63")
                return []
            if RESERVED_NAMES.match(name):
                self.problem(path, name, "another name: each run keeps a file or folder of its own under this one")
                return []
        if body is not None and not isinstance(body, dict):
            self.problem(path, body, "a mapping of keys to values")
            return []
        bodies: list[dict[str, Any]] = [dict(body or {}) for _ in names]
        for field_name in ("address", "fabric_address"):
            value = (body or {}).get(field_name)
            if not isinstance(value, str) or "[" not in value or (len(names) == 1 and ":" in value):
                continue
            try:
                addresses = expand(value)
            except RangeError as error:
                self.problem(f"{path}.{field_name}", value, f"a range; {error}")
                return []
            if len(addresses) != len(names):
                self.problem(
                    f"{path}.{field_name}",
                    value,
                    f"{len(names)} addresses, one for each name; the range has {len(addresses)}",
                )
                return []
            for one, address in zip(bodies, addresses, strict=True):
                one[field_name] = address
        return list(zip(names, bodies, strict=True))

    def host(self, name: str, body: dict[str, Any], path: str, defaults: Mapping[str, Any]) -> Host:
        own = self.host_keys(body, path)
        env = {**defaults.get("env", {}), **own.get("env", {})}
        names = dict.fromkeys((*defaults.get("pass_env", ()), *own.pop("pass_env", ())))
        values, not_set = passed(self.environ, list(names))
        common = {key: item for key, item in defaults.items() if key != "pass_env"}
        made = {"name": name, "address": name, **common, **own, "env": env}
        made["container"] = self.host_container(common.get("container", {}), own.get("container"), path)
        if made["container"] is not None and "environment" in made:
            self.say(f"{path}: both env: {made['environment']!r} and container: are set: expected one of the two")
        return Host(**made, passed=values, not_set=not_set)

    def host_container(
        self, common: Mapping[str, Any], own: Mapping[str, Any] | None, path: str
    ) -> Container | None:
        """Return the container of a host, from the keys of ``defaults`` and its own; None if it has none."""
        if own == {} or not (common or own):
            return None
        keys = {**common, **(own or {})}
        if "image" not in keys:
            self.say(f"{path}.container: no image: expected the key 'image'")
            return None
        return Container(**keys)

    def refuse_same_machine(self, hosts: Mapping[str, Host]) -> None:
        """Refuse a machine listed twice: its two torchrun processes would compete for its lock and GPUs."""
        seen: dict[tuple[str, int | None, tuple[str, ...]], str] = {}
        for host in hosts.values():
            where = (host.address, host.port, host.jump)
            if where in seen:
                self.problem(
                    f"hosts.{host.name}.address", host.address, f"an address that {seen[where]} does not have"
                )
            seen.setdefault(where, host.name)

    def host_names(self, value: Any, path: str, names: list[str]) -> list[str]:
        """Read a list of names, or ranges of names, of hosts in the inventory."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(path, value, "a list of host names")
            return []
        found: list[str] = []
        for item in value:
            try:
                wanted = expand(item) if isinstance(item, str) else []
            except RangeError:
                wanted = []
            unknown = [name for name in wanted if name not in names]
            if unknown or not wanted:
                near = nearest(str(item), names)
                self.problem(path, item, f"the name of a host{f'; {near}' if near else ''}")
            found += [name for name in wanted if name in names and name not in found]
        return found

    def master_first(self, value: Any, hosts: list[Host], spares: tuple[str, ...]) -> list[Host]:
        names = [host.name for host in hosts]
        if value is not None:
            if value not in names:
                near = nearest(str(value), names)
                self.problem("master", value, f"the name of a host{f'; {near}' if near else ''}")
                return hosts
            if value in spares:
                self.problem("master", value, "a host that is not a spare")
        first = value if value is not None else next((name for name in names if name not in spares), None)
        return sorted(hosts, key=lambda host: host.name != first)

    def rendezvous(self, value: Any) -> Rendezvous:
        readers: dict[str, Callable[[Any, str], Any]] = {
            "backend": self.one_of("static", "c10d"),
            "port": self.integer(1, 65535),
            "interface": self.interface,
            "id": self.name,
            "endpoint": self.dialled(is_endpoint, "host[:port]"),
        }
        body = self.mapping(value, "rendezvous", tuple(readers))
        read = {key: self.take(body, key, "rendezvous", readers[key]) for key in body}
        return Rendezvous(**{key: item for key, item in read.items() if item is not None})

    def data(self, value: Any) -> list[DataSource]:
        """Read a list of ``PATH`` or ``{path: PATH, to: PATH on the nodes}``."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem("data", value, "a list of paths")
            return []
        found = []
        for number, item in enumerate(value):
            where = f"data[{number}]"
            body = {"path": item} if isinstance(item, str) else self.mapping(item, where, ("path", "to"))
            path = self.take(body, "path", where, self.text, None)
            if path is None:
                self.problem(f"{where}.path", body.get("path"), "a path on this machine")
            else:
                found.append(DataSource(path, self.take(body, "to", where, self.text, None)))
        return found

    def outputs(self, value: Any) -> Outputs:
        body = self.mapping(value, "outputs", ("max_size", "include", "exclude", "max_log"))
        usual = Outputs()
        return Outputs(
            self.take(body, "max_size", "outputs", self.size, usual.max_bytes),
            self.take(body, "include", "outputs", self.patterns, usual.include),
            self.take(body, "exclude", "outputs", self.patterns, usual.exclude),
            self.take(body, "max_log", "outputs", self.size, usual.max_log),
        )
