"""Shows what the keys of hosts came to, and where each value comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.inventory.provenance import Origin
from orchestrator.ui.display import Display


def show_origins(display: Display, cluster: Sequence[Origin], hosts: Mapping[str, Sequence[Origin]]) -> None:
    """Show the keys on stdout: a row for each value of a key, with the hosts that have it."""
    if display.as_json:
        by_host = {name: _as_json(found) for name, found in hosts.items()}
        display.write(json.dumps({"cluster": _as_json(cluster), "hosts": by_host}, indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("key", "hosts", "value", "from"):
        table.add_column(heading, overflow="fold")
    for each in cluster:
        table.add_row(*_row(each, "-"))
    rows: dict[Origin, list[str]] = {}
    for name, found in hosts.items():
        for each in found:
            rows.setdefault(each, []).append(name)
    order = list(dict.fromkeys(each.key for each in rows))
    for each in sorted(rows, key=lambda each: order.index(each.key)):
        table.add_row(*_row(each, folded(rows[each])))
    display.table(table)


def _as_json(origins: Sequence[Origin]) -> dict[str, dict[str, object]]:
    return {each.key: {"value": each.value, "from": each.source} for each in origins}


def _row(origin: Origin, hosts: str) -> tuple[Text, Text, Text, Text]:
    usual = "dim" if origin.source == "default" else ""
    return Text(origin.key, style="bold"), Text(hosts), Text(origin.text, style=usual), Text(origin.source, usual)
