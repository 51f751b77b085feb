"""Write a LaunchPlan that is a job as a script for sbatch, which runs without orch."""

from __future__ import annotations

import shlex
from dataclasses import replace

from orchestrator.core.launch.command import NodeCommand, command
from orchestrator.core.launch.job import FIRST_NODE
from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.launch.script.by_hand import by_hand
from orchestrator.core.launch.script.sh import body, gap
from orchestrator.errors import UsageError

# srun passes the inner script to every node on stdin: the copy of this script is on the first node only.
_SCRIPT = """\
#!/bin/sh
{options}
# Run {run_id}. Written by orch plan --format sbatch: sbatch FILE, on the login node.
# It needs the code that orch sync puts on the shared disk, and nothing else of orch.
# ORCH_CODE=FOLDER takes the code from another folder. The exit code is that of the first node that fails, or 0.
set -eu
ORCH_FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export ORCH_FIRST_NODE
# From Slurm 22.05 on, srun no longer takes this from the job.
if [ -n "${{SLURM_CPUS_PER_TASK-}}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 sh -s <<'{end}'
set -eu
{body}{end}
"""


def as_sbatch(plan: LaunchPlan) -> str:
    """Return the script of a job. Secrets are taken from the environment that sbatch is called in.

    Raises UsageError for a plan that is no job.
    """
    if not plan.batch:
        remedy = "write scheduler: in place of hosts:, or use --format sh"
        raise UsageError("--format sbatch: the hosts file has no scheduler", remedy=remedy)
    if plan.spec.launcher != "torchrun":
        raise UsageError(
            f"--format sbatch: {plan.spec.launcher} needs a file of its own on each node",
            remedy="leave out --launcher, or let orch run submit the job",
        )
    first = plan.nodes[0]
    # All nodes of a job are alike: they differ in what Slurm tells each of them.
    node = replace(
        first,
        address=first.address and gap("ORCH_FIRST_NODE"),
        work=f"{first.workdir}/runs/node{gap('SLURM_NODEID')}/{plan.run_id}",
    )
    shown = by_hand(
        replace(
            plan,
            nodes=(node,),
            master_addr=plan.master_addr.replace(FIRST_NODE, gap("ORCH_FIRST_NODE")),
            rdzv_endpoint=plan.rdzv_endpoint.replace(FIRST_NODE, gap("ORCH_FIRST_NODE")),
        )
    )
    launch = _of_any_node(command(replace(shown, nodes=plan.nodes), shown.nodes[0]), len(plan.spec.args))
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {shlex.quote(option)}" for option in plan.batch),
        run_id=plan.run_id,
        nodes=len(plan.nodes),
        body=body(shown, shown.nodes[0], launch).rstrip("\n") + " </dev/null\n",
        end=f"end-of-{plan.run_id}",
    )


def _of_any_node(launch: NodeCommand, args: int) -> NodeCommand:
    """Return the command with gaps for the node's place. The last ``args`` words are the user's."""
    own, users = launch.argv[: len(launch.argv) - args], launch.argv[len(launch.argv) - args :]
    rank = gap("SLURM_NODEID")
    argv = tuple(f"--node_rank={rank}" if word == f"--node_rank={launch.node_rank}" else word for word in own)
    names = {"NODE_RANK": rank, "ORCH_NODE": gap("SLURMD_NODENAME")}
    env = {name: names.get(name, value) for name, value in launch.env.items()}
    return replace(launch, argv=(*argv, *users), env=env)
