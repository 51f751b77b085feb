"""Plan a run as a batch job, whose nodes are not known before it runs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.inventory.sections.scheduler import Slurm
from orchestrator.core.launch.plan import LaunchPlan, RunSpec, plan
from orchestrator.errors import UsageError

# What a plan shows for the address of the first node.
FIRST_NODE = "FIRST_NODE"
# The master ports of jobs: below those that systems hand out (32768 on), and above the well-known ones.
LOWEST_PORT, PORTS = 20_000, 10_000
# How long before the time limit Slurm signals the job, in seconds: the grace of a stop, and as long again.
SIGNAL_BEFORE = 60


@dataclass(frozen=True)
class Gaps:
    """Words that stand for what is known only when the job runs; their nonce makes them unlike any other text."""

    master: str
    attempt: str

    @classmethod
    def of(cls, nonce: str) -> Gaps:
        """Return the gaps of a run."""
        return cls(f"@first-node-{nonce}@", f"@attempt-{nonce}@")


def host_names(nodes: int) -> list[str]:
    """Return what the nodes of a job are called before it has any, in node_rank order."""
    return [f"node{rank}" for rank in range(nodes)]


def node_count(slurm: Slurm, nodes: str | None) -> int:
    """Return the number of nodes of a run; ``nodes`` is the value of ``--nodes``. Raises UsageError."""
    if nodes is None:
        return slurm.nodes
    if not nodes.isascii() or not nodes.isdigit() or not 0 < int(nodes) <= 10_000:
        raise UsageError(
            f"--nodes {nodes}: Slurm chooses the nodes: expected how many",
            remedy="to name them: options: [--nodelist=...] in the hosts file",
        )
    return int(nodes)


def job_plan(
    login: Host,
    slurm: Slurm,
    rendezvous: Rendezvous,
    spec: RunSpec,
    facts: Facts,
    run_id: str,
    nodes: int,
    restarts: int,
    trees: Sequence[str],
) -> LaunchPlan:
    """Plan a run on ``nodes`` nodes, from the facts of the login node, whose disk they share.

    ``restarts``: how often the job may start again. ``trees``: the ids of the trees of each node. The port follows
    from the run's id, because jobs that share a machine need different ones. Raises UsageError for an elastic run.
    """
    if spec.nnodes is not None:
        remedy = "--nnodes N; with --max-restarts N, Slurm starts the job again on other nodes"
        raise UsageError("--nnodes MIN:MAX: a Slurm job has a fixed number of nodes", remedy=remedy)
    if spec.launcher == "mpirun":
        remedy = "leave out --launcher mpirun: srun starts the nodes, and torchrun the ranks"
        raise UsageError("--launcher mpirun: a job of Slurm does not need it", remedy=remedy)
    gpus = slurm.gpus_per_node if slurm.gpus_per_node is not None else login.gpus or 0
    port = LOWEST_PORT + zlib.crc32(run_id.encode()) % PORTS
    hosts = [replace(login, name=name, fabric_address=FIRST_NODE, gpus=gpus) for name in host_names(nodes)]
    known = replace(facts, gpus=gpus, addresses=(), routes=(), ssh_address=None, free_port=port)
    made = plan(
        hosts,
        rendezvous,
        spec,
        {host.name: replace(known, node=host.name, hostname=host.name) for host in hosts},
        run_id,
    )
    folder = job_folder(facts.expand(slurm.workdir), run_id)
    return replace(
        made,
        nodes=tuple(
            replace(
                node,
                address=None if node.node_rank else FIRST_NODE,
                attempt_dir=f"{folder}/{node.node}/runs/{run_id}/attempt1",
            )
            for node in made.nodes
        ),
        notes=tuple(note for note in made.notes if "no interface towards" not in note),
        trees={host.name: tuple(trees) for host in hosts},
        batch=tuple(sbatch_options(slurm, run_id, nodes, requeue=restarts > 0)),
    )


def job_folder(workdir: str, run_id: str) -> str:
    """Return the folder of a job, as ``node/slurm/jobs.py`` makes it."""
    return f"{workdir}/.orch/slurm/{run_id}"


def with_gaps(made: LaunchPlan, gaps: Gaps) -> LaunchPlan:
    """Return a plan with gaps in place of what is not known before the job runs."""
    return replace(
        made,
        master_addr=made.master_addr.replace(FIRST_NODE, gaps.master),
        rdzv_endpoint=made.rdzv_endpoint.replace(FIRST_NODE, gaps.master),
        nodes=tuple(
            replace(
                node,
                address=node.address and gaps.master,
                attempt_dir=node.attempt_dir.removesuffix("attempt1") + f"attempt{gaps.attempt}",
            )
            for node in made.nodes
        ),
    )


def sbatch_options(slurm: Slurm, run_id: str, nodes: int, *, requeue: bool) -> list[str]:
    """Return sbatch's options for a job; the user's come last, so that they win."""
    return [
        f"--job-name=orch-{run_id}",
        f"--nodes={nodes}",
        "--ntasks-per-node=1",
        *_given("--partition", slurm.partition),
        *_given("--account", slurm.account),
        *_given("--time", slurm.time),
        *_given("--gpus-per-node", slurm.gpus_per_node or None),
        # Without "B:", the signal goes to the tasks, which are the supervisors, and not to the script.
        f"--signal=TERM@{SIGNAL_BEFORE}",
        "--requeue" if requeue else "--no-requeue",
        "--open-mode=append",
        *slurm.options,
    ]


def _given(option: str, value: object) -> Sequence[str]:
    return [] if value is None else [f"{option}={value}"]
