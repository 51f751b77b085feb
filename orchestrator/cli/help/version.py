"""``orch --version``: the versions that a report of a problem needs."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from orchestrator import __version__


def versions() -> str:
    """Return the versions of orch, Python, torch and the system, a line each."""
    # Importing torch would take seconds.
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "not installed for this Python; only the nodes need it"
    libc = " ".join(platform.libc_ver()).strip()
    system = f"{platform.system()} {platform.release()} {platform.machine()}" + (f", {libc}" if libc else "")
    lines = {"orch": __version__, "python": platform.python_version(), "torch": torch, "platform": system}
    return "\n".join(f"{name} {value}" for name, value in lines.items())


def show_versions(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Print the versions and end, if the option is given."""
    if wanted and not context.resilient_parsing:
        click.echo(versions())
        context.exit()
