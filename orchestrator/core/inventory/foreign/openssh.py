"""An OpenSSH client configuration: each alias with what ssh itself would use for it."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.inventory.destination import parse_hop
from orchestrator.core.inventory.foreign.gathering import Gathering
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.foreign.ssh_arguments import hop_of_command, hops

_LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*)\Z", re.DOTALL)
_WORD = re.compile(r'"([^"]*)"|([^\s"]+)')
_WILD = re.compile(r"[*?!]")
_CARRIED = ("hostname", "user", "port", "identityfile", "proxyjump", "proxycommand")
# Keywords that change nothing for orch, which neither forwards nor multiplexes, or that it always applies.
_WITHOUT_EFFECT = frozenset(
    (
        "addkeystoagent",
        "batchmode",
        "compression",
        "connectionattempts",
        "connecttimeout",
        "controlmaster",
        "controlpath",
        "controlpersist",
        "forwardagent",
        "forwardx11",
        "forwardx11trusted",
        "hashknownhosts",
        "identitiesonly",
        "include",
        "loglevel",
        "passwordauthentication",
        "requesttty",
        "sendenv",
        "serveralivecountmax",
        "serveraliveinterval",
        "setenv",
        "tcpkeepalive",
        "usekeychain",
        "visualhostkey",
    )
)
_TOKEN = re.compile(r"%(.)")


@dataclass
class _Block:
    """The settings of one ``Host``, with their lines; ``patterns`` is None for most kinds of ``Match``."""

    patterns: list[str] | None
    settings: list[tuple[str, str, int]] = field(default_factory=list)

    def applies(self, alias: str) -> bool:
        """Return whether ssh applies the block to an alias: one pattern matches, and no negated one does."""
        wanted = [each for each in self.patterns or () if not each.startswith("!")]
        refused = [each[1:] for each in self.patterns or () if each.startswith("!")]
        matches = [any(fnmatch.fnmatchcase(alias, each) for each in some) for some in (wanted, refused)]
        return matches[0] and not matches[1]


def parse_openssh(texts: Mapping[str, str]) -> Imported:
    """Return the aliases of a configuration, included files after it; patterns only give values to aliases.

    Raises InventoryError.
    """
    gathering = Gathering("OpenSSH configuration", next(iter(texts)))
    blocks: list[_Block] = []
    aliases: dict[str, tuple[str, int]] = {}
    for source, text in texts.items():
        gathering.source = source
        found = _read(gathering, text)
        blocks += found
        for block in found:
            for alias in block.patterns or ():
                if not _WILD.search(alias):
                    aliases.setdefault(alias, (source, block.settings[0][2]))
    settings = {alias: _effective(blocks, alias) for alias in aliases}
    for alias, (source, line) in aliases.items():
        gathering.source = source
        _add(gathering, alias, line, settings)
    gathering.source = next(iter(texts))
    gathering.leave_out_jump_hosts()
    return gathering.imported()


def aliases_only(imported: Imported) -> Imported:
    """Return the hosts by name alone, for a configuration that orch applies by itself when it connects."""
    left_out = tuple(note for note in imported.notes if "left out" in note)
    return replace(imported, hosts={name: {} for name in imported.hosts}, notes=left_out)


def included(text: str) -> list[str]:
    """Return the patterns of the files that a configuration includes."""
    found = [_LINE.match(line) for line in text.splitlines()]
    return [
        each for match in found if match and match.group(1).lower() == "include" for each in _words(match.group(2))
    ]


def _read(gathering: Gathering, text: str) -> list[_Block]:
    """Return the blocks of a file. The settings before the first ``Host`` are a block for every host."""
    blocks = [_Block(["*"])]
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.match(line.rstrip())
        if match is None or not match.group(2):
            gathering.mistake(number, line.strip(), "a keyword and its value, such as HostName 10.0.0.3")
            continue
        keyword, value = match.group(1).lower(), match.group(2).strip()
        if keyword == "host":
            blocks.append(_Block(_words(value)))
        elif keyword == "match":
            everyone = value.lower() == "all"
            blocks.append(_Block(["*"] if everyone else None))
            if not everyone:
                gathering.note(number, f"Match {value} is not carried over: copy what applies to each host")
        if keyword not in ("host", "match") and keyword not in (*_CARRIED, *_WITHOUT_EFFECT):
            gathering.note(number, f"{match.group(1)} is not carried over")
        blocks[-1].settings.append((keyword, value, number))
    return blocks


def _words(text: str) -> list[str]:
    return [quoted or plain for quoted, plain in _WORD.findall(re.split(r"\s#", text, maxsplit=1)[0])]


def _effective(blocks: list[_Block], alias: str) -> dict[str, tuple[str, int]]:
    """Return the value and line of each keyword that is carried over: the first value counts, as in ssh."""
    found: dict[str, tuple[str, int]] = {}
    for block in blocks:
        if block.applies(alias):
            for keyword, value, line in block.settings:
                if keyword in _CARRIED:
                    found.setdefault(keyword, (value, line))
    return found


def _add(
    gathering: Gathering, alias: str, line: int, settings: Mapping[str, Mapping[str, tuple[str, int]]]
) -> None:
    own = settings[alias]
    user = _one(own.get("user"))
    if user == "git":
        gathering.note(line, f"the host {alias} is left out: its user is git")
        return
    keys: dict[str, Any] = {"address": _one(own.get("hostname")).replace("%h", alias).replace("%n", alias)}
    keys |= {"user": user, "port": _one(own.get("port")), "identity_file": _identity(gathering, own)}
    keys = {key: value for key, value in keys.items() if value}
    jump = _jump(gathering, own, settings)
    if jump:
        keys["jump"] = jump
    if keys.get("address", alias) in ("localhost", "127.0.0.1", "::1") and "port" not in keys:
        gathering.note(line, f"the host {alias} is left out: it is this machine")
        return
    gathering.add(line, alias, keys, again=True)


def _one(given: tuple[str, int] | None) -> str:
    """Return the first word of a value; empty if it is absent."""
    return (_words(given[0]) or [""])[0] if given else ""


def _identity(gathering: Gathering, own: Mapping[str, tuple[str, int]]) -> str:
    given = own.get("identityfile")
    path = _one(given).replace("%d", "~")
    if given and _TOKEN.search(path.replace("%%", "")):
        gathering.note(given[1], f"IdentityFile {path} is not carried over: orch does not expand its % tokens")
        return ""
    return "" if path.lower() == "none" else path.replace("%%", "%")


def _jump(
    gathering: Gathering,
    own: Mapping[str, tuple[str, int]],
    settings: Mapping[str, Mapping[str, tuple[str, int]]],
) -> list[str]:
    """Return the hops of a host, aliases replaced by what they stand for."""
    named, command = own.get("proxyjump"), own.get("proxycommand")
    if named:
        return [_dialled(hop, settings) for hop in hops(_one(named))]
    if command and command[0].lower() != "none":
        hop = hop_of_command(command[0])
        if hop is not None:
            return [_dialled(hop, settings)]
        gathering.note(
            command[1], "ProxyCommand is not carried over: orch reaches hosts through jump hosts (jump:)"
        )
    return []


def _dialled(text: str, settings: Mapping[str, Mapping[str, tuple[str, int]]]) -> str:
    """Return a hop with the address, user and port of its alias."""
    hop = parse_hop(text)
    own = settings.get(hop.host) if hop else None
    if hop is None or own is None:
        return text
    address = _one(own.get("hostname")) or hop.host
    user, port = hop.user or _one(own.get("user")), hop.port or _one(own.get("port"))
    shown = f"[{address}]" if ":" in address and port else address
    return f"{user}@{shown}"[0 if user else 1 :] + (f":{port}" if port else "")
