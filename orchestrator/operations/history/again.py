"""``orch run --again``: the options of a recorded run, for a run with the same code, arguments and hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.core.history.record import Place, RunRecord, hidden, spec_of
from orchestrator.core.inventory.target import Target
from orchestrator.core.launch.plan import RunSpec
from orchestrator.core.text.secret import HIDDEN
from orchestrator.errors import UsageError
from orchestrator.local.history.code import CodeStore
from orchestrator.local.history.runs import read_record
from orchestrator.operations.history.finding import find_id
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.source import Source


def recorded(base: Path, word: str) -> RunRecord:
    """Return the record of the run that ``word`` means. Raises UsageError."""
    run_id = find_id(base, word)
    record = read_record(base / run_id)
    if record is None:
        what = f"run {run_id} was recorded without what --again needs"
        raise UsageError(what, remedy="only orch 0.3 and later write run.json; start it by its command")
    return record


def same_target(target: Target, place: Place, given: Callable[[str], bool]) -> Target:
    """Return the hosts of a recorded run, except what the user gave, of which ``given`` tells by option."""
    hosts = target.hosts_file
    if not given("hosts_file"):
        recorded_file = Path(place.folder) / place.hosts
        # A list of hosts, or the word sandbox, is no file.
        hosts = recorded_file if recorded_file.exists() else Path(place.hosts)
    if given("nodes") or given("include") or given("exclude"):
        return replace(target, hosts_file=hosts)
    return replace(
        target,
        hosts_file=hosts,
        nodes=place.nodes,
        include=place.include,
        exclude=place.exclude,
        master=target.master or place.master,
    )


def same_options(
    record: RunRecord, runs_dir: Path, args: Sequence[str], env: Mapping[str, str], environ: Mapping[str, str]
) -> RunOptions:
    """Return a recorded run's options. ``args`` are added to its own, and ``env`` to its variables.

    Secrets were not recorded: they are taken from ``env``, else from ``environ``. Raises UsageError for those
    that are in neither, and if the code was not kept.
    """
    try:
        spec = spec_of(record.spec)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"run.json of run {record.run_id} is damaged: {error}") from None
    if record.code is None:
        raise UsageError(f"the code of run {record.run_id} was not kept", remedy="start it by its command")
    spec = replace(
        spec,
        args=(*_shown_args(record, spec), *args),
        env={**_completed(record, spec.env, env, environ), **env},
        local=_completed(record, spec.local, env, environ),
    )
    root = CodeStore(runs_dir).restored(record.code.tree, Path(record.code.root))
    return RunOptions(spec, Source(spec.workload, root), runs_dir, again=record.code, **record.options)


def _completed(
    record: RunRecord, values: Mapping[str, str], env: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, str]:
    """Return variables with those that were masked taken from ``env`` or ``environ``."""
    found = dict(values)
    for name in hidden(values):
        if name not in env and name not in environ:
            raise UsageError(
                f"--again {record.run_id}: the value of {name} is a secret, which was not recorded",
                remedy=f"export {name}, or pass --env {name}=VALUE",
            )
        found[name] = env.get(name, environ.get(name, ""))
    return found


def _shown_args(record: RunRecord, spec: RunSpec) -> tuple[str, ...]:
    for word in spec.args:
        if HIDDEN in word:
            raise UsageError(
                f"--again {record.run_id}: an argument is a secret, which was not recorded ({word})",
                remedy="start the run by its command, which orch runs show prints",
            )
    return spec.args
