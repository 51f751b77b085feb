"""The sections that a verb's options are shown in, by the names that click gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

SECTIONS: Mapping[str, Sequence[str]] = {
    "Hosts": ("hosts_file", "nodes", "node", "single_node", "master", "master_addr"),
    "Workload": ("module", "project", "name", "again", "resume", "env", "no_env", "pass_env", "data", "yes"),
    "Launch": (
        "nproc",
        "nnodes",
        "max_restarts",
        "backend",
        "launcher",
        "mixed_precision",
        "port",
        "rdzv_backend",
        "rdzv_id",
        "rdzv_endpoint",
        "rdzv_conf",
    ),
    "During the run": (
        "detach",
        "on_disconnect",
        "grace",
        "collect_every",
        "hang_timeout",
        "on_hang",
        "then",
        "notify",
    ),
    "Checks": ("dry_run", "offline", "no_doctor", "no_sync", "debug"),
    "Output": ("form", "output", "verbose", "as_json", "runs_dir"),
    "Connections": ("connect_timeout", "node_timeout", "accept_new_host_keys", "fanout"),
}
# Verbs whose options need sections by subject; the others keep their own options together.
MANY = ("run", "plan")
# Sections that every verb has if it has their options.
SHARED = ("Hosts", "Output", "Connections")


def by_section(verb: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of a verb's options by section. Those of no section come first, under ``Options``."""
    left = list(names)
    found: dict[str, list[str]] = {}
    for heading, known in SECTIONS.items():
        if verb in MANY or heading in SHARED:
            found[heading] = [name for name in known if name in left]
            left = [name for name in left if name not in known]
    return {heading: inside for heading, inside in {"Options": left, **found}.items() if inside}
