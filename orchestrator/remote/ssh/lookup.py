"""What SSH adds to the keys of hosts, from ssh_config(5) files and known_hosts, without dialling them."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import paramiko

from orchestrator.core.inventory.hosts import Host
from orchestrator.errors import UsageError
from orchestrator.remote.ssh.config import config_files, read_config
from orchestrator.remote.ssh.host_keys import Keyring, fingerprint

# The keywords of ssh_config(5) for keys of a hosts file, as paramiko spells them.
_KEYWORDS = {
    "address": "hostname",
    "user": "user",
    "port": "port",
    "identity_file": "identityfile",
    "jump": "proxyjump",
}


SshValues: TypeAlias = "dict[str, tuple[str | int | tuple[str, ...] | None, str]]"


def look_up(hosts: Sequence[Host]) -> dict[str, SshValues]:
    """Return what SSH adds to each host, by name: for keys of the hosts file, a value and where it comes from.

    Raises UsageError if a config file cannot be read.
    """
    home = Path.home()
    files = config_files(home)
    both, each = read_config(files), {_shown(path, home): read_config([path]) for path in files}
    keyring = Keyring(home)
    return {host.name: _values(host, both, each, keyring) for host in hosts}


def _values(
    host: Host, both: paramiko.SSHConfig, each: Mapping[str, paramiko.SSHConfig], keyring: Keyring
) -> SshValues:
    try:
        merged = both.lookup(host.address)
        alone = {label: config.lookup(host.address) for label, config in each.items()}
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize) as error:
        raise UsageError(f"~/.ssh/config: {error}", remedy="correct the file", host=host.name) from None
    values: SshValues = {
        "user": (getpass.getuser(), "user of this machine (default)"),
        "port": (22, "default"),
    }
    keywords = dict(_KEYWORDS)
    if "proxyjump" not in merged and "proxycommand" in merged:
        keywords["jump"] = "proxycommand"
    for key, keyword in keywords.items():
        value: Any = merged.get(keyword)
        # The lookup gives the name itself where no HostName is set.
        if value is None or value == [] or (key == "address" and value == host.address):
            continue
        label = next((label for label, found in alone.items() if keyword in found), next(iter(each)))
        values[key] = (tuple(value) if isinstance(value, list) else value, label)
    port = host.port or int(merged.get("port", 22))
    recorded = keyring.keys_of(merged["hostname"] if port == 22 else f"[{merged['hostname']}]:{port}")
    values["host_key"] = (tuple(f"{key.get_name()} {fingerprint(key)}" for key in recorded), "known_hosts")
    return values


def _shown(path: Path, home: Path) -> str:
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
