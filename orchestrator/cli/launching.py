"""The commands that launch: how their words are sorted, and what their options come to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from orchestrator.cli.options import ELASTIC_RESTARTS, target
from orchestrator.cli.script import notes_on_options
from orchestrator.cli.spelling import Grammar, Spelled, dashed, spelled
from orchestrator.core.launch.variables import LocalSettings, local_settings, reserved
from orchestrator.errors import UsageError

SORTED, OPTIONS = "orchestrator.spelled", "orchestrator.options"
HELP = ("-h", "--help")
# Spellings of accelerate and DeepSpeed that scripts may have for themselves.
EARLY = frozenset(("--num-processes", "--include", "--exclude"))
# What --nproc may count instead of naming a number.
KINDS = ("auto", "gpu", "cpu")


class LaunchCommand(click.Command):
    """A command whose words are orch's options, a workload, and the workload's own words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Sort the words, then parse orch's. Raises UsageError for options of nobody."""
        from orchestrator.operations.run.source import bundled

        mine = args[: args.index("--")] if "--" in args else args
        if ctx.resilient_parsing or any(word in HELP for word in mine):
            return super().parse_args(ctx, args if ctx.resilient_parsing else ["--help"])
        grammar = self.grammar(ctx)
        ctx.meta[SORTED] = found = spelled(args, grammar, bundled())
        ctx.meta[OPTIONS] = grammar.shown
        with naming_as_typed(found.typed):
            return super().parse_args(ctx, found.words)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with naming_as_typed(ctx.meta[SORTED].typed):
            return super().invoke(ctx)

    def grammar(self, ctx: click.Context) -> Grammar:
        """Return the command's options."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        flags = frozenset(name for each in options if each.is_flag for name in each.opts)
        values = frozenset(name for each in options if not each.is_flag for name in each.opts)
        return Grammar(flags, values, EARLY, self.name or "run")


@contextmanager
def naming_as_typed(typed: Mapping[str, str]) -> Iterator[None]:
    """Let refusals within the body name options as the user spelled them. ``typed``: by orch's names."""
    try:
        yield
    except UsageError as error:
        if (message := as_typed(error.message, typed)) == error.message:
            raise
        raise UsageError(message, remedy=error.remedy, host=error.host) from None
    except click.BadParameter as error:
        if error.param is not None:
            hint = error.param_hint or error.param.get_error_hint(error.ctx or click.get_current_context())
            error.param_hint = as_typed(hint if isinstance(hint, str) else " / ".join(hint), typed)
        raise


def as_typed(message: str, typed: Mapping[str, str]) -> str:
    """Return a message with each of orch's options as it was typed, and orch's name beside an unlike one."""

    def word(match: re.Match[str]) -> str:
        name = match.group()
        said = typed.get(name, name)
        return said if dashed(said) == name or name == "--env" else f"{said} (orch's {name})"

    return re.sub(r"(?<![\w-])--[a-z][a-z-]*(?![\w-])", word, message)


def asked(options: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """Return the options of a launch as Target and RunOptions, with notes for the user. Raises UsageError."""
    meta = click.get_current_context().meta
    found: Spelled = meta[SORTED]
    machines = target(options)
    if options["again"] is not None:
        from orchestrator.cli.recorded.repeating import again

        return *again(options, machines), found.notes
    if options["num_processes"] is not None:
        options["nproc"] = str(_share(options, machines))
    local = LocalSettings({}, {}) if options["no_env"] else local_settings(os.environ)
    launching = launch(options, local)
    notes = [*found.notes, *notes_on_options(found, launching.source, meta[OPTIONS])]
    notes += [f"{name} stays here, {reason}; to send it: --env {name}" for name, reason in local.stay.items()]
    return machines, launching, notes


def _share(options: dict[str, Any], machines: Any) -> int:
    """Return each host's part of ``--num-processes``, which counts the processes of all hosts."""
    from orchestrator.operations.run.previewing import hosts_of

    processes, hosts = options["num_processes"], len(hosts_of(machines))
    if options["nproc"] != "auto":
        raise UsageError("--num-processes and --nproc exclude each other", remedy="give one of them")
    if processes % hosts:
        raise UsageError(
            f"--num-processes {processes}: {hosts} hosts cannot share so many equally",
            remedy="--nproc N starts N on each host; --nodes chooses hosts",
        )
    return int(processes // hosts)


def launch(options: dict[str, Any], local: LocalSettings) -> Any:
    """Return the launch options as RunOptions. Raises UsageError for values that are invalid or contradict."""
    from orchestrator.core.launch.plan import RunSpec
    from orchestrator.operations.run.options import RunOptions
    from orchestrator.operations.run.source import bundled, resolve

    words = list(options["words"])
    if options["module"] is None and not words:
        known = ", ".join(bundled())
        raise UsageError("no workload given", remedy=f"name one ({known}), a script, or -m MODULE")
    name = options["module"] or words.pop(0)
    source = resolve(name, is_module=options["module"] is not None, project=options["project"])
    nnodes = None if options["nnodes"] is None else _nnodes(options["nnodes"])
    spec = RunSpec(
        workload=source.workload,
        args=tuple(words),
        nproc=_nproc(options["nproc"]),
        nproc_of=options["nproc"] if options["nproc"] in KINDS else "auto",
        backend=options["backend"],
        env=launch_variables(options["env"]),
        port=options["port"],
        rdzv_backend=options["rdzv_backend"],
        rdzv_id=options["rdzv_id"],
        rdzv_endpoint=options["rdzv_endpoint"],
        debug=options["debug"],
        launcher=options["launcher"],
        mixed_precision=options["mixed_precision"],
        nnodes=nnodes,
        rdzv_conf=_rdzv_conf(options["rdzv_conf"]),
        local=local.travel,
        restarts=0 if nnodes is None else _restarts(options["max_restarts"], ELASTIC_RESTARTS),
    )
    if nnodes and spec.rdzv_backend == "static":
        raise UsageError("--nnodes MIN:MAX needs torchrun's c10d rendezvous", remedy="leave out --rdzv-backend")
    if spec.backend == "mpi" and spec.launcher != "mpirun":
        raise UsageError("--backend mpi: only mpirun starts such ranks", remedy="add --launcher mpirun")
    if spec.mixed_precision != "no" and spec.launcher != "accelerate":
        raise UsageError(
            "--mixed-precision is for --launcher accelerate",
            remedy="add --launcher accelerate, or set the precision by an option of the script",
        )
    detach, max_restarts = options.get("detach", False), 0 if nnodes else _restarts(options["max_restarts"], 0)
    return RunOptions(
        spec,
        source,
        options["runs_dir"],
        resume=options["resume"],
        check=not options["no_doctor"],
        sync=not options["no_sync"],
        detach=detach,
        max_restarts=max_restarts,
        node_timeout=options.get("node_timeout", 30.0),
        grace=options.get("grace"),
        on_disconnect=_on_disconnect(options.get("on_disconnect", "continue")),
        collect_every=options.get("collect_every"),
        then=options.get("then"),
        hang_timeout=options.get("hang_timeout"),
        on_hang=options.get("on_hang", "report"),
        notify=options.get("notify", ()),
        name=None if options["name"] is None else run_name(options["name"]),
    )


def run_name(value: str) -> str:
    """Return a name for a run. Raises UsageError for one that could be taken for an id or a path."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", value):
        raise UsageError(
            f"--name {value}: expected a letter, then letters, digits, dots, dashes and underscores, at most 64",
            remedy="if it is the script's own option, put it after --",
        )
    return value


def _nnodes(value: str) -> tuple[int, int]:
    low, _, high = value.partition(":")
    if not all(each.isascii() and each.isdigit() for each in (low, high)) or not 1 <= int(low) <= int(high):
        raise UsageError(
            f"--nnodes {value}: expected a number of hosts, or MIN:MAX such as 2:3",
            remedy="--nodes chooses hosts by name",
        )
    return int(low), int(high)


def _restarts(value: int | None, default: int) -> int:
    return default if value is None else value


def _nproc(value: str) -> int | None:
    if value in KINDS:
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise UsageError(f"--nproc {value}: expected auto, gpu, cpu or a number from 1 on")
    return int(value)


def _rdzv_conf(value: str | None) -> dict[str, str]:
    found = {}
    for entry in (value or "").split(",") if value else []:
        name, equals, text = entry.strip().partition("=")
        if not name or not equals:
            raise UsageError(f"--rdzv-conf {value}: expected KEY=VALUE,..., such as join_timeout=600")
        if name in ("is_host", "rank"):
            raise UsageError(f"--rdzv-conf {entry}: orch sets {name} for each node", remedy="leave it out")
        found[name] = text
    return found


def _on_disconnect(value: str) -> float | None:
    word, colon, seconds = value.partition(":")
    if value == "continue":
        return None
    if word != "stop" or not colon or not seconds.isascii() or not seconds.isdigit() or int(seconds) < 10:
        raise UsageError(f"--on-disconnect {value}: expected continue, or stop:SECONDS with at least 10")
    return float(seconds)


def launch_variables(entries: Iterable[str]) -> dict[str, str]:
    """Return the variables of ``--env``. Raises UsageError."""
    return dict(_variable(entry) for entry in entries)


def _variable(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not name.isidentifier() or not name.isascii():
        remedy = "a file of packages belongs into the hosts file, as env: under defaults:" if "." in name else None
        what = f"--env {name!r}: expected NAME=VALUE, or NAME to take its value from this machine"
        raise UsageError(what, remedy=remedy)
    if reserved(name):
        raise UsageError(f"--env {name}: torchrun and orch set this variable for each rank", remedy="leave it out")
    if not equals and name not in os.environ:
        raise UsageError(
            f"--env {name}: not set on this machine", remedy=f"export {name}, or pass --env {name}=VALUE"
        )
    return name, value if equals else os.environ[name]
