"""The options that several verbs share, and the conversion of their values."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from orchestrator.core.inventory.reading import parse_size
from orchestrator.core.launch.accelerate import MIXED_PRECISIONS
from orchestrator.errors import UsageError


def stack(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator that applies several click options."""
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


class Backend(click.Choice[str]):
    """The backends that torchrun can start ranks for. The refusal of ``mpi`` gives the reason."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the choice. Raises UsageError for ``mpi``."""
        if value == "mpi":
            raise UsageError(
                "--backend mpi: its ranks have to be started by mpirun, which orch does not do",
                remedy="--backend gloo or nccl",
            )
        return super().convert(value, parameter, context)


# How often torchrun may restart the ranks of an elastic run by default.
ELASTIC_RESTARTS = 3

hosts_option = click.option(
    "--hosts",
    "hosts_file",
    type=click.Path(path_type=Path),
    envvar="ORCH_HOSTS",
    default=Path("hosts.yaml"),
    show_default=True,
    metavar="FILE",
    help="The inventory (also $ORCH_HOSTS).",
)

target_options = stack(
    hosts_option,
    click.option(
        "--nodes", metavar="EXPR", help="The hosts to use: names, globs, ranges such as gpu[01-04], or a count."
    ),
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
        "--fanout",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        help="How many hosts to handle at once.",
    ),
)

launch_options = stack(
    click.option("-m", "--module", metavar="MODULE", help="Run a module, as python -m does."),
    click.option(
        "--project",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The folder to sync; by default the nearest one above the script with .git, pyproject.toml or "
        ".orchignore.",
    ),
    click.option(
        "--nnodes",
        metavar="MIN:MAX",
        help="Elastic run: go on while MIN of MAX hosts are left; torchrun itself restarts the ranks (c10d).",
    ),
    click.option("--nproc", metavar="auto|N", default="auto", show_default=True, help="Processes per node."),
    click.option(
        "--backend",
        type=Backend(["auto", "nccl", "gloo"]),
        default="auto",
        show_default=True,
        help="How ranks exchange tensors; auto: nccl if every host has GPUs, else gloo.",
    ),
    click.option(
        "--launcher",
        type=click.Choice(["torchrun", "accelerate"]),
        default="torchrun",
        show_default=True,
        help="The program to start on each node: torchrun, or Hugging Face's accelerate launch.",
    ),
    click.option(
        "--mixed-precision",
        type=click.Choice(MIXED_PRECISIONS),
        default="no",
        show_default=True,
        help="With --launcher accelerate: the mixed precision in its config.",
    ),
    click.option("--single-node", is_flag=True, help="Use only the first host, as --nodes 1 does."),
    click.option(
        "--env",
        "env",
        multiple=True,
        metavar="K[=V]",
        help="Set a variable for every rank; K alone takes its value from this machine; repeatable.",
    ),
    click.option("--port", type=click.IntRange(1, 65535), help="The master port; by default a free one."),
    click.option(
        "--rdzv-backend", type=click.Choice(["static", "c10d"]), help="How the torchruns find each other."
    ),
    click.option("--rdzv-id", metavar="ID", help="c10d: the rendezvous id; by default the run's id."),
    click.option(
        "--rdzv-endpoint", metavar="HOST:PORT", help="c10d: where the torchruns meet; by default at the master."
    ),
    click.option(
        "--debug", is_flag=True, help="Set TORCH_DISTRIBUTED_DEBUG and NCCL_DEBUG on every rank; implies -v."
    ),
    click.option("--no-sync", is_flag=True, help="Send nothing; refuse to start if a host lacks the code."),
    click.option("--no-doctor", is_flag=True, help="Start even if the checks find that the run would fail."),
    click.option(
        "--max-restarts",
        type=click.IntRange(min=0),
        metavar="N",
        help="Start a failed run again up to N times, with spares in place of lost hosts; "
        f"by default 0, with --nnodes {ELASTIC_RESTARTS}.",
    ),
    click.option(
        "--resume", metavar="RUN", help="Put the outputs of an earlier run into the working folders first."
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show every event."),
    click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="WORKLOAD [-- ARGS]"),
)

seconds = click.FloatRange(min=1.0)
grace_option = click.option(
    "--grace",
    type=click.FloatRange(0, 7 * 86400),
    metavar="SECONDS",
    help="How long stopped ranks may take to end, for example to write a checkpoint. Default: grace: of the "
    "inventory, else 30, and 3 after a failure.",
)

from_start_option = click.option(
    "--from-start", is_flag=True, help="Show each log from its first byte, not only its last 64 KiB."
)

node_timeout_option = click.option(
    "--node-timeout",
    # Signs of life come every two seconds, and half of the timeout must be long enough for one.
    type=click.FloatRange(min=6.0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a host may be silent before it counts as lost.",
)
runs_dir_option = click.option(
    "--runs-dir",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    envvar="ORCH_RUNS_DIR",
    metavar="DIR",
    help="Where runs are recorded on this machine.",
)

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "sh", "ps1", "json"]),
    default="table",
    show_default=True,
    help="The format of the plan.",
)


def target(options: dict[str, Any]) -> Any:
    """Return the shared options as a Target. Raises UsageError if both options that choose nodes are given."""
    from orchestrator.core.inventory.target import Settings, Target

    settings = Settings(options["connect_timeout"], options["accept_new_host_keys"])
    single = options.get("single_node", False)
    if single and options["nodes"]:
        raise UsageError("--single-node and --nodes exclude each other", remedy="name one host with --nodes")
    return Target(options["hosts_file"], "1" if single else options["nodes"], settings, options["fanout"])


def launch(options: dict[str, Any]) -> Any:
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
        backend=options["backend"],
        env=dict(_variable(entry) for entry in options["env"]),
        port=options["port"],
        rdzv_backend=options["rdzv_backend"],
        rdzv_id=options["rdzv_id"],
        rdzv_endpoint=options["rdzv_endpoint"],
        debug=options["debug"],
        launcher=options["launcher"],
        mixed_precision=options["mixed_precision"],
        nnodes=nnodes,
        restarts=0 if nnodes is None else _restarts(options["max_restarts"], ELASTIC_RESTARTS),
    )
    if nnodes and (spec.launcher == "accelerate" or spec.rdzv_backend == "static"):
        raise UsageError("--nnodes MIN:MAX needs torchrun and its c10d rendezvous")
    if spec.mixed_precision != "no" and spec.launcher != "accelerate":
        raise UsageError(
            "--mixed-precision is for --launcher accelerate", remedy="set the precision by an option of the script"
        )
    detach, max_restarts = options.get("detach", False), 0 if nnodes else _restarts(options["max_restarts"], 0)
    if detach and max_restarts:
        raise UsageError(
            "--detach and --max-restarts exclude each other: only a control process can start a failed run again",
            remedy="leave --detach out and start orch in tmux, or with nohup",
        )
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
    )


def _nnodes(value: str) -> tuple[int, int]:
    low, _, high = value.partition(":")
    if not all(each.isascii() and each.isdigit() for each in (low, high)) or not 1 <= int(low) <= int(high):
        raise UsageError(
            f"--nnodes {value}: expected MIN:MAX, such as 2:3", remedy="use --nodes for a fixed number of hosts"
        )
    return int(low), int(high)


def _restarts(value: int | None, default: int) -> int:
    return default if value is None else value


def _nproc(value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise UsageError(f"--nproc {value}: expected auto or a number from 1 on")
    return int(value)


def _on_disconnect(value: str) -> float | None:
    word, colon, seconds = value.partition(":")
    if value == "continue":
        return None
    if word != "stop" or not colon or not seconds.isascii() or not seconds.isdigit() or int(seconds) < 10:
        raise UsageError(f"--on-disconnect {value}: expected continue, or stop:SECONDS with at least 10")
    return float(seconds)


def age(value: str) -> float:
    """Return an age such as ``10m`` in seconds. Raises UsageError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (value[:-1], value[-1:]) if value[-1:] in units else (value, "s")
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"--since {value}: expected an age such as 90s, 10m or 2h")
    return float(int(number) * units[unit])


def size(value: str) -> int:
    """Return a rate such as ``20M`` in bytes per second. Raises UsageError."""
    found = parse_size(value)
    if not found:
        raise UsageError(f"--rate {value}: expected bytes per second such as 500k, 20M or 1G")
    return found


def _variable(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not name.isidentifier() or not name.isascii():
        raise UsageError(f"--env {name!r}: expected NAME=VALUE, or NAME to take its value from this machine")
    if not equals and name not in os.environ:
        raise UsageError(
            f"--env {name}: not set on this machine", remedy=f"export {name}, or pass --env {name}=VALUE"
        )
    return name, value if equals else os.environ[name]
