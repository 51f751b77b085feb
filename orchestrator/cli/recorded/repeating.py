"""``orch run --again``: which options may go with it, and what the recorded run's come to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.launching import launch_variables, run_name
from orchestrator.errors import UsageError

# Options that say how this run is followed, or where, and leave the run as it was.
FREE = (
    "hosts_file",
    "nodes",
    "include",
    "exclude",
    "master",
    "connect_timeout",
    "accept_new_host_keys",
    "fanout",
    "again",
    "name",
    "env",
    "words",
    "runs_dir",
    "verbose",
    "as_json",
    "yes",
    "dry_run",
    "form",
    "output",
    "offline",
)
# Options that replace those of the recorded run.
REPLACING = (
    "resume",
    "max_restarts",
    "node_timeout",
    "grace",
    "collect_every",
    "detach",
    "then",
    "notify",
    "hang_timeout",
    "on_hang",
)


def again(options: dict[str, Any], machines: Any) -> tuple[Any, Any]:
    """Return the hosts and the options of the run to repeat as Target and RunOptions. Raises UsageError."""
    from orchestrator.operations.history.again import recorded, same_options, same_target

    context = click.get_current_context()
    given: dict[str, click.Parameter] = {
        each.name: each
        for each in context.command.params
        if each.name and context.get_parameter_source(each.name) is click.core.ParameterSource.COMMANDLINE
    }
    for name, option in given.items():
        if name not in FREE and name not in REPLACING:
            raise UsageError(
                f"--again repeats the run as it was, so {option.opts[0]} does not go with it",
                remedy="leave it out, or start the run by its command: orch runs show",
            )
    record = recorded(Path(options["runs_dir"]), options["again"])
    machines = same_target(machines, record.place, lambda name: name in given)
    launching = same_options(
        record, Path(options["runs_dir"]), options["words"], launch_variables(options["env"]), os.environ
    )
    own = {each: options[each] for each in REPLACING if each in given}
    named = None if options["name"] is None else run_name(options["name"])
    return machines, replace(launching, **own, name=named)
