"""The options that several verbs share, and the conversion of their values."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.help import completion
from orchestrator.core.inventory.reading import parse_size
from orchestrator.core.launch.accelerate import MIXED_PRECISIONS
from orchestrator.core.launch.launchers import LAUNCHERS
from orchestrator.errors import UsageError


def stack(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator that applies several click options."""
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


class Rendezvous(click.Choice[str]):
    """The rendezvous that need no server. The refusal of etcd gives the reason."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the choice. Raises UsageError for etcd."""
        if isinstance(value, str) and value.startswith(("etcd", "zeus")):
            raise UsageError(
                f"--rdzv-backend {value}: it needs a server, and orch starts none",
                remedy="leave it out, or use c10d, which the first host serves",
            )
        return super().convert(value, parameter, context)


class Launcher(click.Choice[str]):
    """The programs that orch can start on a node. The refusal of DeepSpeed's backends gives the reason."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the choice. Raises UsageError for a launcher that starts nodes itself."""
        if isinstance(value, str) and value.lower() in MPI_LAUNCHERS:
            what = f"--launcher {value}: orch finds out which MPI the nodes have"
            raise UsageError(what, remedy="--launcher mpirun; if it is the script's own option, put it after --")
        if isinstance(value, str) and value.lower() in OTHER_LAUNCHERS:
            raise UsageError(
                f"--launcher {value}: orch starts the nodes itself, by SSH",
                remedy="leave it out; if it is the script's own option, put it after --",
            )
        return super().convert(value, parameter, context)


class RunWord(click.ParamType[str]):
    """A word that means a run. One that this machine has not recorded stays as it is: the hosts may know it."""

    name = "run"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """Return the id. Raises UsageError for a word that fits several runs, and for an unknown ``@`` word."""
        from orchestrator.operations.history.finding import known_id

        given = None if context is None else context.params.get("runs_dir")
        return known_id(Path(given or os.environ.get("ORCH_RUNS_DIR") or "runs").expanduser(), value)


RUN = RunWord()
# Ranks are looked at every second or less often, and some pauses are no hang.
LEAST_HANG_TIMEOUT = 5.0
# What DeepSpeed and the mm* projects call launchers.
OTHER_LAUNCHERS = ("pdsh", "slurm", "jsrun", "pytorch", "deepspeed")
MPI_LAUNCHERS = ("openmpi", "mvapich", "mpich", "impi", "mpi", "mpiexec")
# How often torchrun may restart the ranks of an elastic run by default.
ELASTIC_RESTARTS = 3

hosts_option = click.option(
    "--hosts",
    "hosts_file",
    type=click.Path(path_type=Path),
    envvar="ORCH_HOSTS",
    default=Path("hosts.yaml"),
    show_default=True,
    metavar="FILE|LIST",
    help="The inventory, a list such as node1,node2,user@10.0.0.3:2222 or gpu[01-04], or another tool's file: "
    "hosts.txt, an Ansible inventory, a hostfile, ... (FORMAT:FILE if the format is unclear; also $ORCH_HOSTS).",
)

connecting_options = stack(
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
        metavar="N",
        help="How many hosts to handle at once.",
    ),
)

target_options = stack(
    hosts_option,
    click.option(
        "--nodes",
        metavar="EXPR",
        shell_complete=completion.hosts_list,
        help="The hosts to use: names, globs, ranges such as gpu[01-04], or a count.",
    ),
    connecting_options,
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
        metavar="N|MIN:MAX",
        help="N: use N hosts, as --nodes does. MIN:MAX: elastic run, which goes on while MIN of MAX hosts are "
        "left; torchrun itself restarts the ranks (c10d).",
    ),
    click.option("--master", metavar="HOST", help="The host that gets node_rank 0; by default the inventory's."),
    click.option(
        "--nproc",
        metavar="auto|gpu|cpu|N",
        default="auto",
        show_default=True,
        help="Processes per node; auto: one per GPU, or one; gpu, cpu: one per GPU or core.",
    ),
    # As accelerate and DeepSpeed have them.
    click.option(
        "--num-processes",
        type=click.IntRange(min=1),
        metavar="N",
        hidden=True,
        help="Processes on all hosts together.",
    ),
    click.option("--include", metavar="HOST[:GPU,...]@...", hidden=True, help="The hosts to use, and their GPUs."),
    click.option("--exclude", metavar="HOST[:GPU,...]@...", hidden=True, help="The hosts and GPUs to leave out."),
    click.option(
        "--backend",
        type=click.Choice(["auto", "nccl", "gloo", "mpi"]),
        default="auto",
        show_default=True,
        help="How ranks exchange tensors; auto: nccl if every host has GPUs, else gloo; mpi: over mpirun's.",
    ),
    click.option(
        "--launcher",
        type=Launcher(list(LAUNCHERS)),
        default="torchrun",
        show_default=True,
        help="What starts the ranks: torchrun or accelerate launch on each node, or mpirun on the first.",
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
    click.option(
        "--no-env",
        is_flag=True,
        help="Leave NCCL_*, OMP_* and the like of this machine here (see orch help env).",
    ),
    click.option(
        "--port", type=click.IntRange(1, 65535), metavar="N", help="The master port; by default a free one."
    ),
    click.option("--rdzv-backend", type=Rendezvous(["static", "c10d"]), help="How the torchruns find each other."),
    click.option("--rdzv-id", metavar="ID", help="c10d: the rendezvous id; by default the run's id."),
    click.option(
        "--rdzv-endpoint", metavar="HOST:PORT", help="c10d: where the torchruns meet; by default at the master."
    ),
    click.option("--rdzv-conf", metavar="K=V,...", help="Further settings of torchrun's rendezvous."),
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
        f"by default 0; with --nnodes MIN:MAX {ELASTIC_RESTARTS}.",
    ),
    click.option(
        "--resume",
        type=RUN,
        metavar="RUN",
        shell_complete=completion.runs,
        help="Put the outputs of an earlier run into the working folders first.",
    ),
    click.option("--name", metavar="NAME", help="A name for the run, to call it by in orch runs and elsewhere."),
    click.option(
        "--again",
        metavar="RUN",
        shell_complete=completion.runs,
        help="Repeat an earlier run: the same code, arguments and hosts. Words after -- are added to its own.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show every event."),
    click.argument(
        "words",
        nargs=-1,
        type=click.UNPROCESSED,
        metavar="WORKLOAD [[--] ARGS]",
        shell_complete=completion.workloads,
    ),
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
    # Before the words that mean runs, which are looked up there.
    is_eager=True,
    metavar="DIR",
    help="Where runs are recorded on this machine.",
)

then_option = click.option(
    "--then",
    metavar="CMD",
    help="Run this shell line here when the run has ended and its outputs are here, such as terraform destroy.",
)


def _places(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the places to notify: those given, else that of the environment, which is one, blanks and all."""
    told = os.environ.get("ORCH_NOTIFY")
    return given or ((told,) if told else ())


notify_option = click.option(
    "--notify",
    metavar="WHERE",
    multiple=True,
    callback=_places,
    help="Tell WHERE when the run ends, fails, hangs or begins again: a webhook's URL, a shell line, or desktop "
    "(repeatable; also $ORCH_NOTIFY).",
)


def _hang_timeout(context: click.Context, option: click.Parameter, given: str) -> float | None:
    """Return the time in seconds, None for never. Raises UsageError."""
    if given in ("off", "0"):
        return None
    try:
        found = age(given)
    except UsageError:
        found = 0.0
    if found < LEAST_HANG_TIMEOUT:
        expected = f"expected {LEAST_HANG_TIMEOUT:g}s or more, such as 90s, 10m or 2h, or off"
        raise UsageError(f"--hang-timeout {given}: {expected}")
    return found


hang_timeout_option = click.option(
    "--hang-timeout",
    callback=_hang_timeout,
    default="10m",
    show_default=True,
    metavar="DURATION|off",
    help="How long ranks may make no progress before orch takes their stacks and says whom they wait for.",
)
on_hang_option = click.option(
    "--on-hang",
    type=click.Choice(["report", "stop", "restart"]),
    default="report",
    show_default=True,
    help="What follows when no rank makes progress: only the report, the end of the run, or another attempt "
    "(with --max-restarts).",
)
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "sh", "ps1", "sbatch", "json"]),
    default="table",
    show_default=True,
    help="The format of the plan; sh and ps1: a script for each node, which needs nothing of orch there.",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="With --format sh or ps1: write each node's script, run_distributed_node1.sh and so on, to DIR.",
)


def target(options: dict[str, Any]) -> Any:
    """Return the shared options as a Target. Raises UsageError if both options that choose nodes are given."""
    from orchestrator.core.inventory.target import Settings, Target
    from orchestrator.ui.display import Display

    settings = Settings(options["connect_timeout"], options["accept_new_host_keys"])
    single = options.get("single_node", False)
    if single and options["nodes"] not in (None, "1"):
        raise UsageError("--single-node and --nodes exclude each other", remedy="name one host with --nodes")
    display = Display(as_json=click.get_current_context().params.get("as_json", False))
    return Target(
        options["hosts_file"],
        "1" if single else options["nodes"],
        settings,
        options["fanout"],
        master=options.get("master"),
        include=options.get("include"),
        exclude=options.get("exclude"),
        # Cached, so that a verb that opens the cluster several times prints each note once.
        note=functools.cache(display.note),
    )


def age(value: str, option: str = "--since") -> float:
    """Return an age such as ``10m`` in seconds. Raises UsageError, which names the option."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (value[:-1], value[-1:]) if value[-1:] in units else (value, "s")
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"{option} {value}: expected an age such as 90s, 10m or 2h")
    return float(int(number) * units[unit])


def size(value: str) -> int:
    """Return a rate such as ``20M`` in bytes per second. Raises UsageError."""
    found = parse_size(value)
    if not found:
        raise UsageError(f"--rate {value}: expected bytes per second such as 500k, 20M or 1G")
    return found
