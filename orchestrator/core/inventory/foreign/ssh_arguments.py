"""Jump hosts in arguments of the ssh program, and in ``ProxyJump`` and ``ProxyCommand`` of its configuration."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import Any

# Options of ssh with a value, without those that are read here.
_WITH_VALUE = frozenset("-B -b -c -D -E -e -F -I -L -m -O -Q -R -S -w".split())  # noqa: SIM905
_OPTION = re.compile(r"(\w+)(?:\s*=\s*|\s+)(.*)\Z", re.DOTALL)


@dataclass
class SshArguments:
    """What arguments of ssh say, as keys of ``hosts.yaml``, and the arguments that have no key."""

    keys: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def parse_arguments(text: str) -> SshArguments:
    """Return what arguments such as ``-o ProxyJump=gate -i key`` say. Raises ValueError if quotes do not match."""
    found = SshArguments()
    words = shlex.split(text)
    while words:
        word = words.pop(0)
        option, value = word[:2], word[2:]
        if option in ("-o", "-J", "-i", "-p", "-l") or option in _WITH_VALUE:
            value = value or (words.pop(0) if words else "")
        if option == "-J":
            found.keys["jump"] = hops(value)
        elif option in ("-i", "-p", "-l"):
            found.keys[{"-i": "identity_file", "-p": "port", "-l": "user"}[option]] = value
        elif option == "-o":
            _add_option(found, value)
        else:
            found.left.append(option)
    return found


def hops(text: str) -> list[str]:
    """Return the hops of ``ProxyJump``, the outermost first; none for ``none``."""
    if text.strip().lower() == "none":
        return []
    return [re.sub(r"\Assh://", "", each.strip()) for each in text.split(",") if each.strip()]


def hop_of_command(command: str) -> str | None:
    """Return the hop of ``ssh -W %h:%p [user@]host``, the older form of ProxyJump; None for other commands."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words or words.pop(0).rpartition("/")[2] != "ssh":
        return None
    host, user, port, forwards = None, "", "", False
    while words:
        word = words.pop(0)
        if word[:2] in ("-W", "-p", "-l", "-o"):
            value = word[2:] or (words.pop(0) if words else "")
            forwards = forwards or (word[:2] == "-W" and re.sub(r"[\[\]]", "", value) == "%h:%p")
            port, user = (value if word[:2] == "-p" else port), (value if word[:2] == "-l" else user)
        elif word.startswith("-"):
            if set(word[1:]) - set("qACaTtxvN46"):
                return None
        elif host is None:
            host = word
    if host is None or not forwards:
        return None
    return f"{user}@{host}"[0 if user else 1 :] + (f":{port}" if port else "")


def _add_option(found: SshArguments, text: str) -> None:
    match = _OPTION.match(text)
    name, value = (match.group(1).lower(), match.group(2)) if match else (text, "")
    plain = {"user": "user", "port": "port", "identityfile": "identity_file"}
    hop = hop_of_command(value) if name == "proxycommand" else None
    if name == "proxyjump":
        found.keys["jump"] = hops(value)
    elif hop is not None:
        found.keys["jump"] = [hop]
    elif name in plain:
        found.keys[plain[name]] = value
    else:
        found.left.append(match.group(1) if match else text)
