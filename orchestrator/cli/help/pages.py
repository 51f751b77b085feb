"""The help page of a verb: its usage, examples, and options by section."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

import click

from orchestrator.cli.help.examples import EXAMPLES, Example
from orchestrator.cli.help.front import write_contents, write_front_page
from orchestrator.cli.help.sections import by_section

# Longer lines are hard to read.
WIDEST = 110
NARROWEST = 50
# Options that are longer have a line of their own above their text.
TERM = 28
# A blank at which click does not wrap a line.
UNBROKEN = "\u00a0"


class Formatter(click.HelpFormatter):
    """A formatter that uses the terminal's width up to ``WIDEST``, with bold headings on a terminal."""

    def __init__(self) -> None:
        super().__init__(width=max(NARROWEST, min(shutil.get_terminal_size().columns - 1, WIDEST)))

    def write_heading(self, heading: str) -> None:
        """Write a heading; click removes the style where the output is not a terminal."""
        text = f"{heading}:"
        self.write(f"{text if 'NO_COLOR' in os.environ else click.style(text, bold=True)}\n")

    def getvalue(self) -> str:
        """Return what has been written."""
        return super().getvalue().replace(UNBROKEN, " ")


class PageContext(click.Context):
    """The context of a verb whose ``--help`` is a page of this module."""

    def get_help(self) -> str:
        """Return the verb's page."""
        formatter = Formatter()
        if self.parent is None and isinstance(self.command, click.Group):
            write_front_page(self.command, formatter)
        else:
            write_page(self, formatter)
        return formatter.getvalue().rstrip("\n")


def with_pages(command: click.Command) -> None:
    """Make ``--help`` of a command, and of all commands below it, show their pages."""
    command.context_class = PageContext
    if isinstance(command, click.Group):
        for each in command.commands.values():
            with_pages(each)


def page(command: click.Command, words: Sequence[str]) -> str | None:
    """Return the page of the verb that ``words`` name below ``command``; None if there is no such verb."""
    context = command.make_context("orch", [], resilient_parsing=True)
    for word in words:
        group = context.command
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            return None
        context = found.make_context(word, [], parent=context, resilient_parsing=True)
    return context.get_help()


def contents(program: click.Command, topics: Mapping[str, str]) -> str:
    """Return the list of the program's verbs and of the topics."""
    formatter = Formatter()
    if isinstance(program, click.Group):
        write_contents(program, topics, formatter)
    return formatter.getvalue().strip("\n")


def write_page(context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the page of the context's verb."""
    command = context.command
    path = " ".join(context.command_path.split()[1:])
    command.format_usage(context, formatter)
    command.format_help_text(context, formatter)
    if isinstance(command, click.Group):
        with formatter.section("Verbs"):
            formatter.write_dl([(name, each.get_short_help_str(200)) for name, each in command.commands.items()])
    if path in EXAMPLES:
        with formatter.section("Examples"):
            _write_examples(EXAMPLES[path], formatter)
    # Who reads this page knows --help.
    records = {
        option.name or "": record
        for option in command.params
        if isinstance(option, click.Option) and (record := option.get_help_record(context)) is not None
    }
    width = max((len(term) for term, _ in records.values() if len(term) <= TERM), default=0)
    for heading, names in by_section(path, records).items():
        with formatter.section(heading):
            rows = [(records[name][0].ljust(width), _whole(records[name][1])) for name in names]
            formatter.write_dl(rows, col_max=width)


def _whole(text: str) -> str:
    """Return an option's text with its default and its range, in brackets at the end, kept on one line."""
    before, bracket, rest = text.partition("  [")
    return before + bracket + rest.replace(" ", UNBROKEN)


def _write_examples(examples: Sequence[Example], formatter: click.HelpFormatter) -> None:
    """Write examples in two columns if they fit, else each below a comment."""
    widths = [max(map(len, column)) for column in zip(*examples, strict=True)]
    if sum(widths) + 4 <= formatter.width:
        formatter.write_dl(examples, col_max=widths[0])
        return
    indent = " " * formatter.current_indent
    for command, does in examples:
        formatter.write(f"{indent}# {does}\n{indent}{command}\n")
