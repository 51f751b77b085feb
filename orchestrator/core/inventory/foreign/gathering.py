"""Gather the hosts of another tool's file, with what is wrong in it and what cannot be carried over."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.inventory.destination import is_hop, is_machine, is_user, parse_hop
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.hostrange import RangeError, expand
from orchestrator.core.inventory.parsing import RESERVED_NAMES
from orchestrator.core.inventory.reading import INTERFACE, NAME, Reader
from orchestrator.core.text.counted import counted
from orchestrator.core.text.escapes import visible
from orchestrator.errors import InventoryError

# Most mistakes of one file that are shown, and that are looked for: prose has one in each line.
MOST_SHOWN = 5
MOST_SOUGHT = 100
MOST_NOTES = 50
MOST_HOSTS = 4096
# The source of a list without a file.
WITHOUT_FILE = "--hosts"
DESTINATION = "[user@]host[:port], such as node1 or ubuntu@10.0.0.3:2222"
_NUMERIC = re.compile(r"[\d.]+\Z", re.ASCII)
_IPV6_IN_BRACKETS = re.compile(r"\[[^\[\]]*:[^\[\]]*\]\Z")
_RANGE = re.compile(r"\[[^\[\]:]*\]")


def is_address(text: str) -> bool:
    """Return whether ``text`` is a host name or a complete numeric address."""
    if _NUMERIC.match(text):
        try:
            return bool(ipaddress.IPv4Address(text))
        except ValueError:
            return False
    return is_machine(text)


def whole_number(text: object) -> int | None:
    """Return the number that ``text`` writes in at most nine digits; None for anything else."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    plain = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if plain else None  # type: ignore[call-overload]


def literal(text: str) -> str:
    """Return ``text`` as a value of ``hosts.yaml`` that stands for itself, dollar signs included."""
    return text.replace("$", "$$")


def words(text: str) -> list[str]:
    """Split at blanks and commas that are not within brackets."""
    found, word, depth = [], "", 0
    for character in text:
        depth += (character == "[") - (character == "]" and depth > 0)
        if depth == 0 and (character == "," or character.isspace()):
            found.append(word)
            word = ""
        else:
            word += character
    return [each for each in (*found, word) if each]


def without_comment(line: str) -> str:
    """Return a line without surrounding blanks and without a comment that begins with ``#``."""
    return re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()


class Gathering(Reader):
    """The hosts found so far in the file ``source``, of the format ``kind``, with notes and mistakes.

    Lines count from 1; line 0 stands for the file as a whole.
    """

    def __init__(self, kind: str, source: str) -> None:
        super().__init__({})
        self.kind = kind
        self.source = source
        self.hosts: dict[str, dict[str, Any]] = {}
        self.places: dict[str, str] = {}
        self._notes: dict[str, tuple[str, int]] = {}
        self.incomplete: str | None = None
        self._machines: dict[tuple[str, int | None, tuple[str, ...]], tuple[str, str]] = {}

    def at(self, line: int) -> str:
        """Return ``file:line``; a list without a file has no lines."""
        return f"{self.source}:{line}" if line and self.source != WITHOUT_FILE else self.source

    def mistake(self, line: int, value: object, expected: str) -> None:
        """Record ``file:line: value: expected ...``."""
        self.problem(self.at(line), value, expected)

    def note(self, line: int, text: str) -> None:
        """Record something that is not carried over; equal notes of several lines become one."""
        first, count = self._notes.get(text, (self.at(line), 0))
        self._notes[text] = (first, count + (count == 0 or first != self.at(line)))

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes, a line each, with the first place that each is about."""
        several = [
            visible(f"{first}: {text}") + (f" (and in {counted(count - 1, 'more place')})" if count > 1 else "")
            for text, (first, count) in self._notes.items()
        ]
        more = len(several) - MOST_NOTES
        return (*several[:MOST_NOTES], *([f"{self.source}: {counted(more, 'more note')}"] if more > 0 else []))

    def add_destination(self, line: int, text: str, **keys: Any) -> None:
        """Add the hosts that ``[user@]host[:port]`` stands for; the host may be a range such as ``gpu[01-04]``."""
        try:
            each = expand(text) if _RANGE.search(text) else [text]
        except RangeError as error:
            self.mistake(line, text, f"a range such as gpu[01-04]; {error}")
            return
        for one in each:
            user, at, where = one.rpartition("@")
            bare = where[1:-1] if _IPV6_IN_BRACKETS.match(where) else where
            hop = parse_hop(f"{user}{at}{bare}")
            if hop is None or not is_address(hop.host):
                self.mistake(line, one, DESTINATION)
                return
            given = {"user": hop.user, "port": hop.port, **keys}
            self.add(line, hop.host, {key: value for key, value in given.items() if value is not None})

    def add(self, line: int, name: str, keys: Mapping[str, Any], *, again: bool = False) -> str | None:
        """Add a host, and return its name in the inventory; None if its name or a key is a mistake.

        ``again``: the format allows several names for one machine, of which the first is added.

        ``keys`` are those of ``hosts.yaml``; text in them stands for itself. ``name`` is dialled unless
        there is an ``address``.
        """
        before = len(self.problems)
        fit = [self.fits(line, key, value) for key, value in keys.items()]
        checked = {key: _as_key(key, value) for key, value in keys.items()} if all(fit) else {}
        dialled = checked.get("address", name)
        if "address" not in keys and not is_address(name):
            self.mistake(line, name, "a host name or address")
        if len(self.problems) > before:
            return None
        machine = (dialled, checked.get("port"), tuple(checked.get("jump", ())))
        if machine in self._machines:
            first, where = self._machines[machine]
            if again:
                self.note(line, f"{name} is left out: it is the same machine as {first}")
            else:
                self.mistake(line, name, f"a machine that is not listed before; {first} is the same ({where})")
            return None
        known = self._name(name, checked.get("port"))
        if known in self.hosts:
            self.mistake(line, name, "a name that no other host has")
            return None
        if "address" not in checked and known != name:
            checked = {"address": name, **checked}
        self.check_size(line, len(self.hosts) + 1)
        self._machines[machine] = (known, self.at(line))
        self.places[known] = self.at(line)
        self.hosts[known] = {
            key: value for key, value in checked.items() if not (key == "address" and value == known)
        }
        return known

    def imported(self, **more: Any) -> Imported:
        """Return what was gathered. Raises InventoryError if there are mistakes, or no hosts."""
        if not self.hosts and not self.problems:
            left = f"; {self.notes[0]}" if self.notes else ""
            self.say(f"{self.source}: it names no host: expected at least one{left}")
        if self.problems:
            raise self.error()
        return Imported(self.kind, self.hosts, notes=self.notes, incomplete=self.incomplete, **more)

    def error(self) -> InventoryError:
        """Return the error that lists the mistakes, or the first few of many."""
        shown = self.problems[:MOST_SHOWN]
        if len(self.problems) > MOST_SHOWN:
            count = len(self.problems) - MOST_SHOWN
            many = len(self.problems) >= MOST_SOUGHT
            further = f"{count} or more further mistakes" if many else counted(count, "further mistake")
            shown.append(f"{self.source}: {further}: expected a {self.kind}")
        return InventoryError(shown, source=self.source, located=True)

    def leave_out(self, name: str, why: str) -> None:
        """Remove a host, and say why."""
        del self.hosts[name]
        self.note(0, f"the host {name} is left out: {why}")

    def leave_out_jump_hosts(self) -> None:
        """Remove hosts that other hosts are reached through, unless nothing else is left."""
        hops = [parse_hop(hop) for keys in self.hosts.values() for hop in keys.get("jump", ())]
        dialled = {hop.host for hop in hops if hop}
        found = [name for name, keys in self.hosts.items() if {name, keys.get("address", name)} & dialled]
        for name in found if len(found) < len(self.hosts) else ():
            self.leave_out(name, "other hosts are reached through it")

    def _name(self, name: str, port: int | None) -> str:
        """Return the name of a host in the inventory: ``name``, or what comes nearest and is allowed there."""
        if ":" in name:
            known = "ip6-" + re.sub(r"[^A-Za-z0-9._-]", "-", name)
        else:
            known = name if NAME.match(name) else name.split(".")[0].lstrip("_-.")
        known = known if NAME.match(known) else f"host{len(self.hosts) + 1}"
        known = f"node-{known}" if RESERVED_NAMES.match(known) else known
        return f"{known}-{port}"[:63] if known in self.hosts and port else known

    def fits(self, line: int, key: str, value: Any) -> bool:
        """Return whether ``hosts.yaml`` takes a value for a key; record a mistake if not."""
        if key in ("port", "nproc"):
            number, most = whole_number(value), 65535 if key == "port" else 1024
            if number is None or not 1 <= number <= most:
                self.mistake(
                    line, value, f"a {'port' if key == 'port' else 'number of processes'} from 1 to {most}"
                )
                return False
            return True
        if key == "jump":
            wrong = [hop for hop in value if not is_hop(hop)]
            for hop in wrong:
                self.mistake(line, hop, "a jump host: [user@]host[:port]")
            return not wrong
        fits, expected = _TEXTS[key]
        if not isinstance(value, str) or not fits(value):
            self.mistake(line, value, expected)
            return False
        return True

    def say(self, line: str) -> None:
        """Record a mistake, once: a group's variable concerns many hosts. Raises InventoryError for too many."""
        before = len(self.problems)
        super().say(line)
        if self.problems[-1] in self.problems[:before]:
            self.problems.pop()
        if len(self.problems) >= MOST_SOUGHT:
            raise self.error()

    def check_size(self, line: int, hosts: int) -> None:
        """Raise InventoryError for more hosts than MOST_HOSTS: ranges are short, and may stand for millions."""
        if hosts > MOST_HOSTS:
            self.mistake(line, hosts, f"at most {MOST_HOSTS} hosts")
            raise self.error()


def _as_key(key: str, value: Any) -> Any:
    """Return a value in the form that ``hosts.yaml`` has for it."""
    if key in ("port", "nproc"):
        return whole_number(value)
    if key == "jump":
        return list(value)
    return literal(value) if key in ("identity_file", "python") else value


def _is_text(text: str) -> bool:
    return bool(text) and text.isprintable()


_TEXTS: dict[str, tuple[Callable[[str], bool], str]] = {
    "address": (is_address, "a host name or address"),
    "user": (is_user, "a user name"),
    "interface": (lambda text: INTERFACE.match(text) is not None, "an interface name such as eth0"),
    "fabric_address": (is_address, "an address"),
    "identity_file": (_is_text, "the path of a private key"),
    "python": (_is_text, "the path of an interpreter"),
}
