"""What SSH adds to the keys of hosts, from ssh_config(5) files and known_hosts, without dialling them."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class SshSettings:
    """What SSH adds to a host: by key of the hosts file, a value and where it comes from."""

    values: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def look_up(hosts: Sequence[Host]) -> dict[str, SshSettings]:
    """Return what SSH adds to each host, by name. Raises UsageError if a config file cannot be read."""
    home = Path.home()
    files = config_files(home)
    configs = {_shown(path, home): read_config([path]) for path in files}
    keyring = Keyring(home)
    return {host.name: SshSettings(_values(host, read_config(files), configs, keyring)) for host in hosts}


def _values(
    host: Host, both: paramiko.SSHConfig, configs: Mapping[str, paramiko.SSHConfig], keyring: Keyring
) -> dict[str, tuple[str, str]]:
    try:
        merged = both.lookup(host.address)
        alone = {label: config.lookup(host.address) for label, config in configs.items()}
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize) as error:
        raise UsageError(f"~/.ssh/config: {error}", remedy="correct the file", host=host.name) from None
    values = {
        "user": (getpass.getuser(), "your own name"),
        "port": ("22", "default"),
        "identity_file": ("the agent's keys and ~/.ssh/id_*", "default"),
    }
    keywords = dict(_KEYWORDS)
    if merged.get("proxyjump") is None and "proxycommand" in merged:
        keywords["jump"] = "proxycommand"
    for key, keyword in keywords.items():
        value: Any = merged.get(keyword)
        # The lookup gives the name itself where no HostName is set.
        if value is None or value == [] or (key == "address" and value == host.address):
            continue
        label = next((label for label, found in alone.items() if keyword in found), next(iter(configs)))
        values[key] = (", ".join(value) if isinstance(value, list) else str(value), label)
    address, port = merged["hostname"], host.port or int(values["port"][0])
    recorded = keyring.keys_of(address if port == 22 else f"[{address}]:{port}")
    said = ", ".join(f"{key.get_name()} {fingerprint(key)}" for key in recorded)
    values["host_key"] = (said, "known_hosts") if said else ("not recorded yet", "known_hosts")
    return values


def _shown(path: Path, home: Path) -> str:
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
