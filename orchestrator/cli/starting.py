"""Verbs that a newcomer starts with: make a hosts file, look at what it says, and set up SSH keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import connecting_options, hosts_option, stack, target, target_options
from orchestrator.errors import UsageError

login_options = stack(
    click.option("--user", metavar="NAME", help="The user to log in as on every host."),
    click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="The SSH port of every host."),
    click.option("--identity-file", metavar="FILE", help="The private key for every host."),
    connecting_options,
    click.option(
        "--accept-fingerprint",
        "fingerprints",
        multiple=True,
        metavar="SHA256:...",
        help="Record the host key with this fingerprint; repeatable.",
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
@click.option("--add", is_flag=True, help="Add HOSTS to the file if it exists, and change nothing else in it.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@login_options
@click.option("--python", metavar="PATH", help="The interpreter for training; by default one that has torch.")
@click.option("--env", metavar="FILE", help="A file with packages that orch installs on the hosts.")
@click.option(
    "--install-torch", is_flag=True, help="Write a requirements.txt with torch, which orch installs on the hosts."
)
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
@click.option(
    "--keys", "install_keys", is_flag=True, help="Install your SSH key, as orch keys, where only a password works."
)
@click.option("--password-stdin", is_flag=True, help="With --keys: read the password from stdin, one line.")
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
    install_torch: bool,
    add: bool,
    install_keys: bool,
    password_stdin: bool,
    yes: bool,
    **options: Any,
) -> int:
    """Make a hosts file: name HOSTS, or answer questions.

    Checks the hosts in parallel. HOSTS are names, user@host:port, aliases of ~/.ssh/config, and ranges such as
    gpu[01-04].
    """
    from orchestrator.commands.init import init as command
    from orchestrator.core.inventory.target import Settings
    from orchestrator.operations.keys.options import Asking
    from orchestrator.operations.setup.gathering import InitOptions
    from orchestrator.ui.display import Display
    from orchestrator.ui.inventory.questions import Questions

    if add and force:
        raise UsageError("--add and --force: a file is added to or replaced", remedy="leave one of them out")
    if password_stdin and not install_keys:
        raise UsageError("--password-stdin goes with --keys", remedy="add --keys")
    display = Display()
    terminal = sys.stdin.isatty()
    questions = Questions(terminal and not yes)
    if password_stdin and questions.able:
        raise UsageError("--password-stdin needs --yes: stdin cannot answer questions as well")
    asking = Asking(
        agree=lambda question: questions.confirm(question, True),
        accept=_accept(options["accept_new_host_keys"], questions.able, display),
        password=_passwords(password_stdin, terminal, display),
    )
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
        install_torch=install_torch,
        settings=Settings(options["connect_timeout"], options["accept_new_host_keys"]),
        fanout=options["fanout"],
        add=add,
        install_keys=install_keys,
        asking=asking,
    )
    return command(asked, questions, display)


@click.command()
@hosts_option
@click.option("--nodes", metavar="EXPR", help="Only these hosts: names, globs, ranges, or a count.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of hosts files, for editors, instead.")
def hosts(hosts_file: Path, nodes: str | None, as_json: bool, schema: bool) -> int:
    """Print what each key of a hosts file came to, and why.

    Connects to no host.
    """
    from orchestrator.commands import hosts as command
    from orchestrator.ui.display import Display

    display = Display(as_json=as_json)
    return command.schema(display) if schema else command.hosts(hosts_file, nodes, display)


@click.command()
@target_options
@click.option(
    "--identity-file",
    metavar="FILE",
    help="The private key to install, made if FILE does not exist. Default: the key that orch offers to the host.",
)
@click.option("--between", is_flag=True, help="Also let every host log in to every other, with a key of its own.")
@click.option("--undo", is_flag=True, help="Take back what orch keys changed; with --between, only between hosts.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Ask nothing but passwords; new host keys need --accept-new-host-keys.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin, one line; needs --yes.")
def keys(
    identity_file: str | None,
    between: bool,
    undo: bool,
    dry_run: bool,
    yes: bool,
    password_stdin: bool,
    accept_new_host_keys: bool,
    **options: Any,
) -> int:
    """Put your SSH key on every host, to log in without a password.

    A key is made if there is none. Shows what it will change, and asks. The password is asked for once for all
    hosts that share it, and not kept.
    """
    from orchestrator.commands.keys import keys as command
    from orchestrator.operations.keys.options import Asking, KeysOptions
    from orchestrator.ui.display import Display

    display = Display()
    terminal = sys.stdin.isatty()
    if password_stdin and not (yes or dry_run):
        raise UsageError("--password-stdin needs --yes: stdin cannot answer questions as well")
    if not (yes or dry_run or terminal):
        remedy = "pass --yes, and --password-stdin where a host takes only a password"
        raise UsageError("orch keys asks before each change, and stdin is no terminal", remedy=remedy)
    asking = Asking(
        agree=lambda question: yes or display.confirm(question),
        accept=_accept(accept_new_host_keys, terminal, display),
        password=_passwords(password_stdin, terminal, display),
    )
    asked = KeysOptions(asking, identity_file, between, undo, dry_run)
    return command(target({**options, "accept_new_host_keys": False}), asked, display)


def _accept(accept_all: bool, terminal: bool, display: Any) -> Any:
    if accept_all:
        return lambda question: True
    return display.confirm if terminal else None


def _passwords(from_stdin: bool, terminal: bool, display: Any) -> Any:
    given = iter([sys.stdin.readline().rstrip("\r\n")] if from_stdin else [])

    def ask(whose: str) -> str | None:
        if from_stdin:
            return next(given, None)
        if not terminal:
            what = f"the {whose} is needed, and stdin is no terminal: nothing was changed on the hosts"
            raise UsageError(what, remedy="pass --yes --password-stdin, and the password as a line of stdin")
        return str(display.ask_password(whose)) or None

    return ask
