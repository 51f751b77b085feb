"""Write the text of a hosts file, with comments, from the values that it is to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from orchestrator.core.inventory.hostrange import expand
from orchestrator.core.inventory.schema import OWN_KEYS, SHARED_KEYS, TOP_KEYS
from orchestrator.core.text.escapes import visible

MOST_COLUMNS = 100


@dataclass(frozen=True)
class Draft:
    """The values of a hosts file, spelled as the file spells them.

    ``hosts`` maps names to keys, in node_rank order; ``top`` holds the top-level keys besides ``hosts`` and
    ``defaults``. ``comments`` says what was found on a host, by name.
    """

    hosts: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Draft:
        """Return the values of a valid hosts file, with its ranges written out."""
        hosts: dict[str, dict[str, Any]] = {}
        given = document["hosts"]
        for key, body in (given if isinstance(given, Mapping) else dict.fromkeys(given)).items():
            names = expand(key)
            for position, name in enumerate(names):
                hosts[name] = dict(body or {})
                for each in ("address", "fabric_address"):
                    # A range has one address for each name; brackets around an IPv6 address are none.
                    if len(names) > 1 and "[" in hosts[name].get(each, ""):
                        hosts[name][each] = expand(hosts[name][each])[position]
        top = {key: value for key, value in document.items() if key not in ("hosts", "defaults")}
        if top.get("spares"):
            top["spares"] = [name for each in top["spares"] for name in expand(each)]
        return cls(hosts, document.get("defaults") or {}, top)

    def document(self) -> dict[str, Any]:
        """Return the values as YAML would give them."""
        defaults = {"defaults": dict(self.defaults)} if self.defaults else {}
        return {**self.top, **defaults, "hosts": {name: dict(keys) for name, keys in self.hosts.items()}}


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes text with line ends or control characters in double quotes, on one line."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)


def hoisted(draft: Draft) -> Draft:
    """Return the draft with the keys that all hosts share moved to ``defaults``; it describes the same hosts."""
    bodies = list(draft.hosts.values())
    if len(bodies) < 2:
        return draft
    # A file of packages may be named under either of these keys, but only under one of them.
    packages = {"env", "environment"}
    fixed = {*draft.defaults, *OWN_KEYS, *(packages if packages & set(draft.defaults) else ())}
    shared = {
        key: value
        for key, value in bodies[0].items()
        if key not in fixed and all(key in body and body[key] == value for body in bodies)
    }
    hosts = {
        name: {key: value for key, value in body.items() if key not in shared}
        for name, body in draft.hosts.items()
    }
    return Draft(hosts, {**draft.defaults, **shared}, draft.top, draft.comments)


def compose(draft: Draft, schema: str | None = None) -> str:
    """Return the text of a hosts file that parses to the values of ``draft``.

    ``schema``: the path of the JSON Schema for the line that editors read; None leaves the line out.
    """
    lines = [] if schema is None else [f"# yaml-language-server: $schema={_one_line(schema)}"]
    lines += ["# The machines of a cluster. orch hosts shows what each key comes to; orch doctor checks them."]
    tail = {key: value for key, value in draft.top.items() if key not in ("cluster", "sandbox")}
    for key in ("cluster", "sandbox"):
        if key in draft.top:
            lines += _entry(key, draft.top[key])
    if draft.defaults:
        lines += ["", f"# {TOP_KEYS['defaults']['description']}", "defaults:"]
        for key, value in draft.defaults.items():
            lines += _commented(key, value, SHARED_KEYS, "  ")
    lines += ["", "# The hosts, in node_rank order.", "hosts:"]
    above = ""
    for name, keys in draft.hosts.items():
        comment = _one_line(draft.comments.get(name, ""))
        lines += host_lines(name, keys, comment if comment != above else "", "  ")
        above = comment
    for key, value in tail.items():
        lines += ["", *_commented(key, value, TOP_KEYS, "")]
    return "\n".join(lines) + "\n"


def host_lines(name: str, keys: Mapping[str, Any], comment: str, indent: str) -> list[str]:
    """Return the lines of one host under ``hosts:``, below its comment if it has one."""
    said = _one_line(comment)
    return [*([f"{indent}# {said}"] if said else []), *_entry(name, dict(keys), indent)]


def _commented(key: str, value: Any, known: Mapping[str, Mapping[str, Any]], indent: str) -> list[str]:
    about = known.get(key, {}).get("description")
    return [*([f"{indent}# {about}"] if about else []), *_entry(key, value, indent)]


def _entry(key: str, value: Any, indent: str = "") -> list[str]:
    """Return the lines of one key: on one line if that is short, else a line for each key of a mapping."""
    line = f"{indent}{_flow(key)}: {_flow(value)}"
    if not isinstance(value, dict) or not value or len(line) <= MOST_COLUMNS:
        return [line]
    return [
        f"{indent}{_flow(key)}:",
        *(each for inner in value for each in _entry(inner, value[inner], indent + "  ")),
    ]


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    plain = _plain(value)
    text = yaml.dump(
        [plain], Dumper=_Dumper, default_flow_style=True, width=1 << 30, sort_keys=False, allow_unicode=True
    )
    return text.strip().removeprefix("[").removesuffix("]")


def _plain(value: Any) -> Any:
    """Return a value made of plain dictionaries and lists, none of them twice, so that YAML needs no anchors."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    return value


def _one_line(text: str) -> str:
    """Return the text of a comment: what hosts say about themselves may hold line ends of any kind."""
    return " ".join(visible(text).split())
