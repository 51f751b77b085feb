"""What the words of a command line may be, found without a network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def hosts(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the hosts of the hosts file."""
    from orchestrator.commands.completion import hosts

    return _offered(hosts(context.params.get("hosts_file")), incomplete)


def hosts_list(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the hosts of the hosts file, each once in a list separated by commas."""
    before, comma, last = incomplete.rpartition(",")
    given = before.split(",")
    return [
        CompletionItem(f"{before}{comma}{item.value}", help=item.help)
        for item in hosts(context, parameter, last)
        if item.value not in given
    ]


def runs(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the runs that this machine has recorded, the newest first."""
    from orchestrator.commands.completion import recorded_runs

    return _offered(recorded_runs(context.params.get("runs_dir")), incomplete)


def bundled_workloads(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the workloads that come with orch."""
    from orchestrator.operations.run.source import described

    return _offered(described().items(), incomplete)


def workloads(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer bundled workloads and the scripts of this folder; for other words, files."""
    first = not context.params.get(parameter.name or "") and not context.params.get("module")
    if not first or "/" in incomplete:
        return [CompletionItem(incomplete, type="file")]
    scripts = ((file.name, "script") for file in sorted(Path.cwd().glob("[!_.]*.py")))
    found = [*bundled_workloads(context, parameter, incomplete), *_offered(scripts, incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def topics_and_verbs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the topics of ``orch help``, and the verbs."""
    from orchestrator.cli.help.topics import topics

    command = context.find_root().command
    for word in context.params.get(parameter.name or "") or ():
        inner = command.commands.get(word) if isinstance(command, click.Group) else None
        if inner is None:
            return []
        command = inner
    verbs = command.commands if isinstance(command, click.Group) else {}
    known = topics() if command is context.find_root().command else {}
    pages = ((name, verb.get_short_help_str(200)) for name, verb in verbs.items() if name not in known)
    return _offered([*known.items(), *pages], incomplete)


def _offered(names: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    """Return the names that begin with ``incomplete``, each with its text in one line."""
    return [
        CompletionItem(name, help=re.sub(r"\s+", " ", about) or None)
        for name, about in names
        if name.startswith(incomplete)
    ]
