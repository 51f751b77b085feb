"""The front page: the steps that a newcomer takes, and all verbs by what they are for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Step:
    """One of the first steps with orch: a command, and what it does."""

    command: str
    does: str

    @property
    def verb(self) -> str:
        """The verb that the command calls."""
        return self.command.split()[1]


STEPS = (
    Step("orch init", "list your hosts, by hand or from a file"),
    Step("orch keys", "set up logins without a password"),
    Step("orch doctor", "check every host and every pair of hosts"),
    Step("orch run hello-ddp", "train a bundled model on all hosts"),
    Step("orch run train.py --lr 0.1", "train with your own script and its options"),
)
NO_HOSTS = "No other machine? Two hosts on this one: orch run hello --hosts sandbox"

# Every verb, by what it is for. A group may name verbs that the program does not have.
GROUPS: Mapping[str, Sequence[str]] = {
    "Start": ("init", "keys", "run", "attach", "sandbox"),
    "Look": ("ps", "logs", "stacks", "runs", "dashboard", "hosts", "workloads"),
    "Send": ("sync", "exec"),
    "Check": ("doctor", "plan"),
    "Tidy": ("stop",),
    "Help": ("help", "completion"),
}


def first_steps(verbs: Collection[str]) -> tuple[Step, ...]:
    """Return the steps that the program can take, which has these verbs."""
    return tuple(step for step in STEPS if step.verb in verbs)


def grouped(verbs: Collection[str]) -> dict[str, list[str]]:
    """Return the verbs by group, in the order of ``GROUPS``; those of no group are under ``Other``."""
    groups = {heading: [name for name in names if name in verbs] for heading, names in GROUPS.items()}
    known = {name for names in GROUPS.values() for name in names}
    groups["Other"] = [name for name in verbs if name not in known]
    return {heading: names for heading, names in groups.items() if names}


def write_front_page(program: click.Group, formatter: click.HelpFormatter) -> None:
    """Write the front page of ``program``, which fits a terminal of 24 lines with the prompt below it."""
    formatter.write_text(program.help or "")
    with formatter.section("First steps"):
        steps = [
            (f"{number}. {step.command}", step.does)
            for number, step in enumerate(first_steps(program.commands), start=1)
        ]
        formatter.write_dl(steps)
    formatter.write_paragraph()
    formatter.write_text(NO_HOSTS)
    with formatter.section("Verbs"):
        formatter.write_dl(
            [(heading.lower(), ", ".join(names)) for heading, names in grouped(program.commands).items()]
        )
    with formatter.section("More"):
        formatter.write_dl(
            [
                ("orch help", "what each verb does, and topics: hosts, env, sync, ..."),
                ("orch VERB --help", "the options of a verb, with examples"),
                ("orch --version", "the versions of orch, Python and torch"),
            ]
        )


def write_contents(program: click.Group, topics: Mapping[str, str], formatter: click.HelpFormatter) -> None:
    """Write a line for each verb of ``program``, by group, and a line for each of ``topics``."""
    width = max(map(len, (*program.commands, *topics)))
    with formatter.section("Verbs (orch help VERB shows one)"):
        for names in grouped(program.commands).values():
            formatter.write_dl(
                [(f"{name:<{width}}", program.commands[name].get_short_help_str(200)) for name in names]
            )
    with formatter.section("Topics (orch help TOPIC shows one)"):
        formatter.write_dl([(f"{name:<{width}}", about) for name, about in topics.items()])
