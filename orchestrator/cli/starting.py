"""Verbs that a newcomer starts with: make a hosts file, and look at what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import hosts_option, stack

connection_options = stack(
    click.option("--user", metavar="NAME", help="The user to log in as on every host."),
    click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="The SSH port of every host."),
    click.option("--identity-file", metavar="FILE", help="The private key for every host."),
    click.option(
        "--connect-timeout",
        type=click.FloatRange(min=0.1),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a host may take to answer.",
    ),
    click.option(
        "--accept-new-host-keys",
        is_flag=True,
        help="Record the keys of hosts seen for the first time in ~/.ssh/known_hosts.",
    ),
    click.option(
        "--accept-fingerprint",
        "fingerprints",
        multiple=True,
        metavar="SHA256:...",
        help="Record the host key with this fingerprint; repeatable.",
    ),
    click.option(
        "--fanout",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        metavar="N",
        help="How many hosts to try at once.",
    ),
)


@click.command()
@click.argument("words", nargs=-1, metavar="[HOSTS...]")
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Take the hosts from another tool's file: an SSH config, hosts.txt, an Ansible inventory, a hostfile.",
)
@click.option("--nodes", metavar="EXPR", help="With --from: only these hosts: names, globs, ranges, or a count.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("hosts.yaml"),
    show_default=True,
    metavar="FILE",
    help="The file to write.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@connection_options
@click.option("--python", metavar="PATH", help="The interpreter for training; by default one that has torch.")
@click.option("--env", metavar="FILE", help="A file with packages that orch installs on the hosts.")
@click.option("--workdir", metavar="DIR", help="The folder on the hosts for code, data and runs.")
@click.option(
    "--interface", metavar="NAME", help="The network interface that ranks use; auto: found at each start."
)
@click.option("--master", metavar="HOST", help="The host with node_rank 0; by default the first.")
@click.option("--cluster", metavar="NAME", help="The name of the cluster; by default that of the folder.")
@click.option(
    "--failing",
    type=click.Choice(["keep", "drop", "stop"]),
    help="What to do with hosts that cannot be used; by default orch asks, and stops where it cannot ask.",
)
@click.option("--no-check", is_flag=True, help="Connect to no host.")
@click.option("--no-schema", is_flag=True, help="Write no hosts.schema.json, which lets editors check the file.")
@click.option("--yes", is_flag=True, help="Ask nothing, and take every default.")
def init(
    words: tuple[str, ...],
    source: str | None,
    nodes: str | None,
    output: Path,
    force: bool,
    interface: str | None,
    master: str | None,
    cluster: str | None,
    failing: str | None,
    no_check: bool,
    no_schema: bool,
    yes: bool,
    **options: Any,
) -> int:
    """Make a hosts file: name HOSTS, or answer questions; each host is tried at once.

    HOSTS are names, user@host:port, aliases of ~/.ssh/config, and ranges such as gpu[01-04].
    """
    from orchestrator.commands.init import init as command
    from orchestrator.core.inventory.target import Settings
    from orchestrator.operations.setup.gathering import InitOptions
    from orchestrator.ui.display import Display
    from orchestrator.ui.inventory.questions import Questions

    names = ("user", "port", "identity_file", "python", "env", "workdir")
    asked = InitOptions(
        words,
        output,
        source,
        nodes,
        {name: options[name] for name in names if options[name] is not None},
        interface,
        master,
        cluster,
        failing,
        options["fingerprints"],
        check=not no_check,
        force=force,
        schema=not no_schema,
        settings=Settings(options["connect_timeout"], options["accept_new_host_keys"]),
        fanout=options["fanout"],
    )
    return command(asked, Questions(sys.stdin.isatty() and not yes), Display())


@click.command()
@hosts_option
@click.option("--nodes", metavar="EXPR", help="Only these hosts: names, globs, ranges, or a count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of hosts files, for editors, instead.")
def hosts(hosts_file: Path, nodes: str | None, as_json: bool, schema: bool) -> int:
    """Print what each key of each host came to, and where from; connect to none."""
    from orchestrator.commands import hosts as command
    from orchestrator.ui.display import Display

    display = Display(as_json=as_json)
    return command.schema(display) if schema else command.hosts(hosts_file, nodes, display)
