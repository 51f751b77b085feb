"""Remedies in the commands of a node's own system."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.protocol.facts import System


def as_root(system: System, command: str) -> str:
    """Return the command, with ``sudo`` if the user is not root."""
    return command if system.root else f"sudo {command}"


def let_in(system: System, sources: Iterable[str]) -> str:
    """Return the remedy that opens this system's firewall to ``sources``.

    It opens all TCP ports that ranks may use, because the kernel chooses the ranks' own ports.
    """
    addresses = sorted(set(sources))
    tool = system.firewall
    if tool == "ufw":
        commands = [f"ufw allow from {address}" for address in addresses]
    elif tool == "firewall-cmd":
        commands = [f"firewall-cmd --permanent --zone=trusted --add-source={address}" for address in addresses]
        commands.append("firewall-cmd --reload")
    elif tool == "iptables":
        commands = [f"iptables -I INPUT -p tcp -s {address} -j ACCEPT" for address in addresses]
    else:
        listed = ", ".join(addresses)
        commands = [f"nft insert rule inet filter input ip saddr {{ {listed} }} tcp dport 1024-65535 accept"]
    return "open the receiving host's firewall: " + " && ".join(as_root(system, command) for command in commands)
