"""What ``terraform output -json`` prints: the outputs that hold addresses of hosts."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.core.inventory.foreign.gathering import Gathering, is_address
from orchestrator.core.inventory.foreign.imported import Imported

KIND = "Terraform output"
# Attributes of instances, as the providers of AWS, Google, Azure, DigitalOcean, Hetzner and OpenStack name them.
_PUBLIC = (
    "public_ip",
    "public_ip_address",
    "nat_ip",
    "ipv4_address",
    "access_ip_v4",
    "ip_address",
    "ip",
    "public_dns",
)
_PRIVATE = ("private_ip", "private_ip_address", "network_ip", "ipv4_address_private", "internal_ip")
_NAMES = ("name", "hostname", "host", "id")
# Words of an output's name that do not tell which hosts it is about.
_WORDS = re.compile(
    r"(?:^|_)(?:public|private|external|internal|ipv4|ips?|address(?:es)?|addrs?|dns|fqdns?|names?|hostnames?|hosts?)"
    r"(?=_|\Z)"
)
_PRIVATE_NAME = re.compile(r"private|internal")
# Outputs with an address of something else than a host of the cluster.
_OTHER = re.compile(
    r"(?:^|_)(?:lb|elb|alb|nlb|load_?balancer|nat|gateway|vpn|endpoint|db|database|rds|url|cidr|subnet|dns_zone|vpc)(?:_|\Z)"
)
_JUMP = re.compile(r"bastion|jump")
_USER = re.compile(r"(?:^|_)(?:ssh_user(?:name)?|user(?:name)?|admin_user(?:name)?|login)\Z")
_KEY = re.compile(r"(?:private_key|key|ssh_key|identity)_(?:path|file)(?:name)?\Z")


# How deep outputs may hold addresses: lists and maps in lists and maps.
_DEEPEST = 8


@dataclass(frozen=True)
class _Listed:
    """The addresses of one output by host name; the names are empty if the output gives none."""

    output: str
    stem: str
    private: bool
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    fabric: tuple[str | None, ...] = ()


def parse_terraform(texts: Mapping[str, str]) -> Imported:
    """Return the hosts of the outputs, public addresses before private ones. Raises InventoryError."""
    ((source, text),) = texts.items()
    gathering = Gathering(KIND, source)
    outputs = _outputs(gathering, text)
    defaults: dict[str, Any] = {}
    found: list[_Listed] = []
    for name, value in outputs.items():
        key = "user" if _USER.search(name.lower()) else "identity_file" if _KEY.search(name.lower()) else None
        if key is not None and isinstance(value, str):
            if gathering.fits(0, key, value):
                defaults[key] = value.replace("$", "$$") if key == "identity_file" else value
        elif _JUMP.search(name.lower()) and isinstance(value, str) and is_address(value):
            defaults["jump"] = value
        elif (listed := _listed(gathering, name, value)) is not None:
            found.append(listed)
    _add_hosts(gathering, _paired(gathering, _gathered(found)))
    return gathering.imported(defaults=defaults)


def _outputs(gathering: Gathering, text: str) -> dict[str, Any]:
    """Return the values of the outputs that are not sensitive; a single output is named ``node``."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        gathering.say(f"{gathering.at(line)}: {getattr(error, 'msg', 'nested too deeply')}: expected JSON")
        raise gathering.error() from None
    if isinstance(document, list | str):
        return {"node": document}
    if not isinstance(document, dict):
        gathering.mistake(0, document, "what terraform output -json prints")
        raise gathering.error()
    found = {}
    for name, output in document.items():
        if not isinstance(output, dict) or "value" not in output:
            gathering.mistake(0, name, "an output with a value, as terraform output -json prints it")
        elif output.get("sensitive") is True:
            gathering.note(0, f"the output {name} is left out: it is sensitive")
        else:
            found[name] = output["value"]
    return found


def _listed(gathering: Gathering, name: str, value: Any) -> _Listed | None:
    """Return the addresses of an output; None, and a note, if it holds none."""
    lone = isinstance(value, str)
    rows = list(_rows(value, _DEEPEST))
    if not rows or (_OTHER.search(name.lower()) and lone) or (lone and not _numeric(rows[0][1])):
        gathering.note(0, f"the output {name} is left out: it does not list addresses of hosts")
        return None
    private = bool(_PRIVATE_NAME.search(name.lower())) and not any(each[2] for each in rows)
    names = tuple(label for label, _, _ in rows)
    stem = _WORDS.sub("", name.lower()).strip("_")
    return _Listed(
        name,
        re.sub(r"_?\d+\Z", "", stem) if lone else stem,
        private,
        (stem,) if lone and stem else names if all(names) else (),
        tuple(address for _, address, _ in rows),
        tuple(fabric for _, _, fabric in rows),
    )


def _rows(value: Any, deepest: int) -> Iterator[tuple[str, str, str | None]]:
    """Yield the name, the address and the private address of each host in an output's value."""
    if isinstance(value, str):
        if is_address(value):
            yield "", value, None
    elif not deepest:
        return
    elif isinstance(value, dict) and not _attributes(value):
        for label, each in value.items():
            for name, address, fabric in _rows(each, deepest - 1):
                yield (name or label), address, fabric
    elif isinstance(value, dict):
        public, private, label = (_first(value, keys) for keys in (_PUBLIC, _PRIVATE, _NAMES))
        if public or private:
            yield label or "", public or private or "", private if public else None
    elif isinstance(value, list):
        for each in value:
            yield from _rows(each, deepest - 1) if isinstance(each, str | dict) else ()


def _attributes(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in (*_PUBLIC, *_PRIVATE))


def _first(value: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((value[key] for key in keys if isinstance(value.get(key), str) and value[key]), None)


def _numeric(address: str) -> bool:
    try:
        return bool(ipaddress.ip_address(address))
    except ValueError:
        return False


def _gathered(found: list[_Listed]) -> list[_Listed]:
    """Return the outputs, those of single hosts such as node1_ip and node2_ip joined."""
    joined: dict[tuple[str, bool], _Listed] = {}
    for each in found:
        key = (each.stem, each.private)
        if key in joined and len(each.addresses) == 1 and each.names and joined[key].names:
            before = joined[key]
            joined[key] = _Listed(
                before.output,
                each.stem,
                each.private,
                before.names + each.names,
                before.addresses + each.addresses,
                before.fabric + each.fabric,
            )
        else:
            joined[key if key not in joined else (each.output, each.private)] = each
    return list(joined.values())


def _paired(gathering: Gathering, found: list[_Listed]) -> _Listed | None:
    """Return the one list of hosts, private addresses beside public ones; several are a mistake."""
    public = [each for each in found if not each.private]
    private = [each for each in found if each.private]
    if len(found) == 2 and len(public) == 1 and public[0].stem == private[0].stem:
        one, other = public[0], private[0]
        if len(one.addresses) != len(other.addresses):
            expected = f"as many addresses as in {one.output} ({len(one.addresses)}), not {len(other.addresses)}"
            gathering.mistake(0, other.output, expected)
            return None
        beside = dict(zip(other.names or other.addresses, other.addresses, strict=True))
        named = [beside.get(name) for name in one.names] if one.names and other.names else list(other.addresses)
        return _Listed(one.output, one.stem, False, one.names or other.names, one.addresses, tuple(named))
    if len(found) > 1:
        shown = ", ".join(f"{each.output} ({len(each.addresses)})" for each in found[:6])
        expected = f"one list of hosts; choose one: terraform output -json {found[0].output} > hosts.json"
        gathering.mistake(0, shown, expected)
        return None
    return found[0] if found else None


def _add_hosts(gathering: Gathering, listed: _Listed | None) -> None:
    if listed is None:
        return
    stem = re.sub(r"[^A-Za-z0-9-]", "-", listed.stem).strip("-") or "node"
    names = listed.names or tuple(f"{stem}{number}" for number in range(1, len(listed.addresses) + 1))
    for name, address, fabric in zip(names, listed.addresses, listed.fabric, strict=True):
        beside = fabric if fabric is not None and _numeric(fabric) and fabric != address else None
        gathering.add(0, name, {"address": address, **({"fabric_address": beside} if beside else {})})
