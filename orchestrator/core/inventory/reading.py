"""Read the values of a hosts file; an invalid value is reported as one line with its path and reads as absent."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.core.inventory.destination import is_hop
from orchestrator.core.inventory.sections.container import (
    ENGINE_CHOICES,
    IMAGE,
    KEYS,
    Mount,
    parsed_mount,
)
from orchestrator.core.launch.variables import reserved
from orchestrator.core.text.nearest import did_you_mean
from orchestrator.core.text.secret import HIDDEN, is_secret, masked

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\Z", re.IGNORECASE)
# Longest number that anybody means, in digits.
MOST_DIGITS = 40
REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})")
HOST_KEY = re.compile(r"(SHA256:[A-Za-z0-9+/]{43}|(?:ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2})\Z")
# The characters that Linux allows, except those with a meaning in a shell or in YAML.
INTERFACE = re.compile(r"[A-Za-z0-9_.@:+=-]{1,40}\Z")
# A name, or a glob that begins with at least three letters: "*" would send everything.
PASSED = re.compile(r"[A-Za-z_][A-Za-z0-9_]{2,}[A-Za-z0-9_*?]*\Z")


class Reader:
    """Reads a document and collects its problems.

    The readers take a value and its path. For an invalid value they record a problem and return None.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []

    def problem(self, path: str, value: object, expected: str) -> None:
        """Record ``path: value: expected ...`` as one line, with secrets masked and long values cut."""
        shown = repr(value) if isinstance(value, str) else _shown(value)
        shown = HIDDEN if ".env." in path and is_secret(path.rpartition(".")[2]) else masked(shown)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        self.say(f"{path}: {shown}: expected {expected}")

    def say(self, line: str) -> None:
        """Record a mistake, with control characters escaped."""
        self.problems.append("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))

    def mapping(self, value: Any, path: str, known: tuple[str, ...]) -> dict[str, Any]:
        """Return the known keys of a mapping and record every other key as a mistake."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problem(path or "the file", value, "a mapping of keys to values")
            return {}
        for key in value:
            if key not in known:
                near = nearest(str(key), known)
                where = f"{path}.{key}" if path else str(key)
                self.say(f"{where}: unknown key; {near or listed(known)}")
        return {key: item for key, item in value.items() if key in known}

    def take(
        self, source: Mapping[str, Any], key: str, path: str, read: Callable[[Any, str], Any], default: Any = None
    ) -> Any:
        """Read one key of a mapping with ``read``; return the default if it is absent or invalid."""
        if key not in source:
            return default
        value = read(source[key], f"{path}.{key}" if path else key)
        return default if value is None else value

    def text(self, value: Any, path: str, expected: str = "text") -> str | None:
        """Read a string that is not empty and expand its ``${VAR}`` references."""
        if not isinstance(value, str) or not value or "\0" in value:
            self.problem(path, value, expected + ("" if isinstance(value, str) else " (quote it)"))
            return None
        return self.expanded(value, path)

    def expanded(self, value: str, path: str) -> str | None:
        """Replace ``${VAR}``, ``${VAR:-default}`` and ``$$`` in a string; None if a variable is not set."""
        missing: list[str] = []

        def replace(match: re.Match[str]) -> str:
            name, default = match.group(1), match.group(2)
            if name is None:
                return "$"
            if name not in self.environ and default is None:
                missing.append(name)
            return self.environ.get(name) or default or ""

        result = REFERENCE.sub(replace, value)
        for name in missing:
            self.problem(path, value, f"the environment variable {name} to be set")
        return None if missing else result

    def word(self, value: Any, path: str) -> str | None:
        """Read a string without blanks that SSH cannot mistake for an option."""
        text = self.text(value, path, "a word")
        if text is not None and (text.startswith("-") or re.search(r"[\s\x00-\x1f]", text)):
            self.problem(path, value, "a word without spaces that does not begin with '-'")
            return None
        return text

    def dialled(self, fits: Callable[[str], bool], expected: str) -> Callable[[Any, str], str | None]:
        """Return a reader of values passed to SSH, which accepts what ``fits`` accepts.

        Commands in ``~/.ssh/config`` may pass the value to a shell, so it must hold no shell syntax. ``${VAR}`` is
        not expanded, because names that are dialled are sent to name servers.
        """

        def read(value: Any, path: str) -> str | None:
            if not isinstance(value, str) or not fits(value):
                expand = "; ${VAR} is not expanded here" if isinstance(value, str) and "$" in value else ""
                self.problem(path, value, expected + expand + ("" if isinstance(value, str) else " (quote it)"))
                return None
            return value

        return read

    def name(self, value: Any, path: str) -> str | None:
        """Read the name of a cluster or of a rendezvous."""
        text = self.text(value, path, "a name")
        if text is not None and not NAME.match(text):
            self.problem(path, value, "letters, digits, '.', '_' and '-', at most 63")
            return None
        return text

    def boolean(self, value: Any, path: str) -> bool | None:
        """Read true or false."""
        if not isinstance(value, bool):
            self.problem(path, value, "true or false")
            return None
        return value

    def integer(self, low: int, high: int) -> Callable[[Any, str], int | None]:
        """Return a reader of whole numbers from ``low`` to ``high``."""

        def read(value: Any, path: str) -> int | None:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                self.problem(path, value, f"a whole number from {low} to {high}")
                return None
            return value

        return read

    def seconds(self, value: Any, path: str) -> float | None:
        """Read a number of seconds, at most a week."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 7 * 86400:
            self.problem(path, value, "a number of seconds from 0 to 604800")
            return None
        return float(value)

    def one_of(self, *choices: str) -> Callable[[Any, str], str | None]:
        """Return a reader that accepts one of ``choices``."""

        def read(value: Any, path: str) -> str | None:
            if value not in choices:
                self.problem(path, value, " or ".join(choices))
                return None
            return str(value)

        return read

    def address(self, value: Any, path: str) -> str | None:
        """Read a numeric IPv4 or IPv6 address."""
        text = self.word(value, path)
        try:
            return str(ipaddress.ip_address(text)) if text else None
        except ValueError:
            self.problem(path, value, "a numeric address such as 10.0.0.2")
            return None

    def interface(self, value: Any, path: str) -> str | None:
        """Read an interface name; ``auto`` reads as absent."""
        text = self.word(value, path)
        if text is not None and not INTERFACE.match(text):
            self.problem(path, value, "an interface name such as eth0")
            return None
        return None if text == "auto" else text

    def jump(self, value: Any, path: str) -> tuple[str, ...] | None:
        """Read a hop or a list of hops, the outermost first."""
        entries = value if isinstance(value, list) else [value]
        read = self.dialled(is_hop, "[user@]host[:port]")
        hops = [read(entry, path) for entry in entries]
        return tuple(hop for hop in hops if hop)

    def host_key(self, value: Any, path: str) -> str | None:
        """Read a pinned host key and drop its comment."""
        text = self.text(value, path, "a public key or SHA256:fingerprint")
        if text is not None and not HOST_KEY.match(" ".join(text.split()[:2])):
            self.problem(path, value, "'ssh-ed25519 AAAA...' or 'SHA256:...'")
            return None
        return " ".join(text.split()[:2]) if text else None

    def environment(self, value: Any, path: str) -> dict[str, str] | None:
        """Read a mapping of variables; numbers and booleans become text as the user would write it."""
        if not isinstance(value, dict):
            self.problem(path, value, "a mapping of variables, NAME: value, or the name of a requirements file")
            return None
        found = {}
        for key, item in value.items():
            where = f"{path}.{key}"
            if not isinstance(key, str) or not VARIABLE.match(key):
                self.problem(where, key, "a variable name: letters, digits and '_'")
            elif reserved(key):
                self.say(f"{where}: torchrun and orch set this variable themselves: expected another name")
            elif isinstance(item, bool):
                found[key] = "true" if item else "false"
            elif isinstance(item, (int, float)) and abs(item) < 10**MOST_DIGITS:
                found[key] = str(item)
            elif not isinstance(item, str) or "\0" in item:
                self.problem(where, item, "text or a number")
            else:
                expanded = self.expanded(item, where)
                found[key] = "" if expanded is None else expanded
        return found

    def container(self, value: Any, path: str) -> dict[str, Any] | None:
        """Read an image, or a mapping with an image and how to start it; ``none`` reads as an empty mapping."""
        if value == "none":
            return {}
        body = {"image": value} if isinstance(value, str) else self.mapping(value, path, KEYS)
        readers: dict[str, Callable[[Any, str], Any]] = {
            "image": self.image,
            "engine": self.one_of(*ENGINE_CHOICES),
            "options": self.options,
            "mounts": self.mounts,
        }
        read = {key: self.take(body, key, path, readers[key]) for key in body}
        return {key: item for key, item in read.items() if item is not None} or None

    def image(self, value: Any, path: str) -> str | None:
        """Read the name of an image, or the path of an archive or of apptainer's image file."""
        text = self.text(value, path, "the name of an image")
        if text is not None and not IMAGE.match(text):
            self.problem(path, value, "the name of an image, such as docker.io/pytorch/pytorch:latest, or a path")
            return None
        return text

    def options(self, value: Any, path: str) -> tuple[str, ...] | None:
        """Read a list of words for a command line."""
        if not isinstance(value, list) or not all(isinstance(each, str) and "\0" not in each for each in value):
            self.problem(path, value, "a list of options, such as [--memory=64g]")
            return None
        return tuple(value)

    def mounts(self, value: Any, path: str) -> tuple[Mount, ...] | None:
        """Read a list of folders of the host, each with its path in the container if that differs."""
        if not isinstance(value, list):
            self.problem(path, value, "a list of folders, such as [/data, /scratch:/tmp/scratch:ro]")
            return None
        found = []
        for number, item in enumerate(value):
            where = f"{path}[{number}]"
            text = self.text(item, where, "a path")
            mount = parsed_mount(text) if text is not None else None
            if text is not None and mount is None:
                self.problem(where, item, "PATH, PATH:TARGET or PATH:TARGET:ro, with absolute paths")
            elif mount is not None:
                found.append(mount)
        return tuple(found)

    def passed(self, value: Any, path: str) -> tuple[str, ...] | None:
        """Read a list of names or globs of variables whose values come from this machine."""
        if not isinstance(value, list):
            self.problem(path, value, "a list of names of variables, such as [HF_TOKEN, WANDB_*]")
            return None
        found = []
        for number, item in enumerate(value):
            where = f"{path}[{number}]"
            if not isinstance(item, str) or not (PASSED.match(item) or VARIABLE.match(item)):
                self.problem(where, item, "the name of a variable, or a prefix of one such as WANDB_*")
            elif reserved(item):
                self.say(f"{where}: torchrun and orch set {item} themselves: expected another name")
            else:
                found.append(item)
        return tuple(found)

    def size(self, value: Any, path: str) -> int | None:
        """Read a size in bytes: a number, or text such as ``500 MB`` or ``1GiB``."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        found = parse_size(value) if isinstance(value, str) else None
        if found is None:
            self.problem(path, value, "a size such as 500 MB or 2 GiB")
        return found

    def patterns(self, value: Any, path: str) -> tuple[str, ...] | None:
        """Read a list of gitignore-style patterns."""
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problem(path, value, "a list of patterns")
            return None
        return tuple(value)


def nearest(word: str, known: tuple[str, ...] | list[str]) -> str:
    """Return ``did you mean x?`` for the closest known word; empty if none is close."""
    found = difflib.get_close_matches(word, known, n=1)
    return did_you_mean(found[0]) if found else ""


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Return ``known: ...`` with the first dozen names."""
    shown = ", ".join(names[:12])
    return f"known: {shown}{', ...' if len(names) > 12 else ''}"


def parse_size(text: str) -> int | None:
    """Return the bytes that ``500 MB``, ``1GiB`` or ``20M`` stands for; None if ``text`` is not a size."""
    match = SIZE.match(text)
    if match is None:
        return None
    number, unit, binary = match.groups()
    if len(number) > MOST_DIGITS:
        return None
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))


def _shown(value: object) -> str:
    """Return a value as a mistake shows it. Python refuses to write whole numbers of thousands of digits."""
    try:
        return ascii(value)
    except ValueError:
        return "a number of thousands of digits"
