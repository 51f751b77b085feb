"""Shows what the keys of hosts came to, and where each value comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.table import Table
from rich.text import Text

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.inventory.provenance import Origin
from orchestrator.ui.display import Display

_LINE = re.compile(r":\d+\Z")


def show_origins(display: Display, cluster: Sequence[Origin], hosts: Mapping[str, Sequence[Origin]]) -> None:
    """Show the keys on stdout: a row for each value of a host's key, with its hosts, then the cluster's keys."""
    if display.as_json:
        by_host = {name: _as_json(found) for name, found in hosts.items()}
        display.write(json.dumps({"hosts": by_host, "cluster": _as_json(cluster)}, indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("key", "hosts", "value", "from"):
        table.add_column(heading, overflow="fold")
    rows: dict[Origin, list[tuple[str, str]]] = {}
    for name, found in hosts.items():
        for each in found:
            # Hosts of a list stand in a line each; what they have in common is one row nevertheless.
            file = _LINE.sub("", each.source)
            rows.setdefault(replace(each, source=file), []).append((name, each.source))
    order = list(dict.fromkeys(each.key for each in rows))
    for each in sorted(rows, key=lambda each: order.index(each.key)):
        names, sources = zip(*rows[each], strict=True)
        source = folded(list(dict.fromkeys(sources)))
        table.add_row(*_row(replace(each, source=source), folded(names)))
    for each in cluster:
        table.add_row(*_row(each, "-"))
    display.table(table)


def _as_json(origins: Sequence[Origin]) -> dict[str, dict[str, object]]:
    return {each.key: {"value": each.value, "from": each.source} for each in origins}


def _row(origin: Origin, hosts: str) -> tuple[Text, Text, Text, Text]:
    usual = "dim" if origin.source == "default" else ""
    return Text(origin.key, style="bold"), Text(hosts), Text(origin.text, style=usual), Text(origin.source, usual)
