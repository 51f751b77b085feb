"""Verbs that explain orch to a user or to a shell."""

from __future__ import annotations

import click

from orchestrator.cli.help.completion import topics_and_verbs
from orchestrator.cli.help.pages import contents, page
from orchestrator.cli.help.shells import SHELLS, script
from orchestrator.cli.help.topics import topic, topics, unknown


@click.command(name="help")
@click.argument("words", nargs=-1, metavar="[TOPIC | VERB]", shell_complete=topics_and_verbs)
@click.pass_context
def explain(context: click.Context, words: tuple[str, ...]) -> int:
    """Show a topic, or the page of a verb.

    Without either, list the verbs and the topics.
    """
    program = context.find_root().command
    known = topics()
    verbs = program.commands if isinstance(program, click.Group) else {}
    if not words:
        click.echo(contents(program, known))
    elif len(words) == 1 and words[0] in known:
        click.echo(topic(words[0]).rstrip("\n"))
        if words[0] in verbs:
            click.echo(f"\nThe verb of this name: orch {words[0]} --help")
    elif (found := page(program, words)) is not None:
        click.echo(found)
    else:
        raise unknown(" ".join(words), [*known, *verbs])
    return 0


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print a script that makes a shell complete your words.

    The shell then completes verbs, options, hosts, runs, workloads and topics. No host is asked.
    """
    click.echo(script(context.find_root().command, shell))
    return 0
