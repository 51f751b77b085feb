"""click's refusals of a command line, in the form of all other errors: one line, with a remedy."""

from __future__ import annotations

import re

import click

from orchestrator.core.text.nearest import did_you_mean, nearest
from orchestrator.errors import UsageError


def refusal(error: click.ClickException) -> UsageError:
    """Return the error for a command line that click refuses."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    unknown = re.match(r"No such command '(.*?)'", error.format_message())
    if unknown and context is not None and isinstance(context.command, click.Group):
        verbs = list(context.command.commands)
        near = nearest(unknown[1], verbs)
        return UsageError(
            f"{context.command_path} has no verb {unknown[1]}",
            remedy=did_you_mean(f"{context.command_path} {near}") if near else f"verbs: {', '.join(verbs)}",
        )
    text = re.sub(r"\s+", " ", error.format_message()).strip()
    message, meant, rest = text.partition("Did you mean")
    message = re.sub(r"[\s.(]+$", "", message)
    remedy = (
        f"did you mean{rest}".removesuffix(")")
        if meant
        else f"see {context.command_path} --help"
        if context
        else None
    )
    return UsageError(message[:1].lower() + message[1:], remedy=remedy)
