"""click's refusals of a command line, in the form of all other errors: one line, with a remedy."""

from __future__ import annotations

import re

import click

from orchestrator.errors import UsageError


def refusal(error: click.ClickException) -> UsageError:
    """Return the error for a command line that click refuses."""
    text = re.sub(r"\s+", " ", error.format_message()).strip()
    message, meant, near = text.partition("Did you mean")
    message = re.sub(r"[\s.(]+$", "", message)
    context = error.ctx if isinstance(error, click.UsageError) else None
    remedy = (
        f"did you mean{near}".removesuffix(")")
        if meant
        else f"see {context.command_path} --help"
        if context
        else None
    )
    return UsageError(message[:1].lower() + message[1:], remedy=remedy)
