"""Turn a LaunchPlan into the argv and variables of each node's launcher, and into sh, PowerShell and JSON text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.core.launch import accelerate
from orchestrator.core.launch.plan import LaunchPlan, NodePlan
from orchestrator.core.text.secret import masked_words, redacted

OUTPUT_FOLDER = "orch-output"
# How long the nodes of an elastic run wait for more nodes once enough have joined, in seconds.
LAST_CALL = 15


@dataclass(frozen=True)
class NodeCommand:
    """Exactly what runs on one node. ``files`` maps paths to texts that are written before the command starts.

    ``hidden`` names the variables whose values are never shown, whatever their names.
    """

    node: str
    node_rank: int
    cwd: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()

    @property
    def shown_env(self) -> dict[str, str]:
        """The variables with secret and hidden values masked."""
        return redacted(self.env, self.hidden)


def commands(plan: LaunchPlan) -> tuple[NodeCommand, ...]:
    """Return the command of every node, in node_rank order."""
    return tuple(command(plan, node) for node in plan.nodes)


def command(plan: LaunchPlan, node: NodePlan) -> NodeCommand:
    """Return one node's command: torchrun's or accelerate's launcher with the workload."""
    launcher, files = _torchrun(plan, node), {}
    if plan.spec.launcher == "accelerate":
        launcher = accelerate.launcher_argv(plan, node)
        files = {accelerate.config_path(node): accelerate.config(plan, node)}
    workload = plan.spec.workload
    target = ["-m", workload.target] if workload.kind == "module" else [workload.target]
    cwd = node.work if workload.cwd == "." else f"{node.work}/{workload.cwd}"
    argv = (*launcher, *target, *plan.spec.args)
    return NodeCommand(node.node, node.node_rank, cwd, argv, _environment(plan, node), files, node.hidden)


def _torchrun(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """Return torchrun's command line up to the workload.

    Only elastic runs let torchrun restart ranks: static agents never learn of a peer's restart.
    """
    return [
        node.python,
        "-m",
        "torch.distributed.run",
        f"--nnodes={plan.nnodes}",
        f"--nproc_per_node={node.nproc_per_node}",
        f"--node_rank={node.node_rank}",
        *_rendezvous_options(plan, node),
        f"--max_restarts={plan.spec.restarts}",
        f"--log_dir={node.attempt_dir}/logs",
        "--redirects=3",
    ]


def _rendezvous_options(plan: LaunchPlan, node: NodePlan) -> list[str]:
    asked = [f"{name}={value}" for name, value in plan.spec.rdzv_conf.items()]
    if plan.rdzv_backend == "static":
        more = [f"--rdzv_conf={','.join(asked)}"] if asked else []
        return [f"--master_addr={plan.master_addr}", f"--master_port={plan.master_port}", *more]
    options = [
        f"--rdzv_backend={plan.rdzv_backend}",
        f"--rdzv_endpoint={plan.rdzv_endpoint}",
        f"--rdzv_id={plan.rdzv_id}",
    ]
    conf = []
    if plan.spec.rdzv_endpoint is None:
        # Otherwise torchrun guesses from the host name whether this node opens the store.
        conf.append(f"is_host={'true' if node.node_rank == 0 else 'false'}")
    if plan.spec.nnodes and "last_call_timeout" not in plan.spec.rdzv_conf:
        conf.append(f"last_call_timeout={LAST_CALL}")
    conf += asked
    if conf:
        options.append(f"--rdzv_conf={','.join(conf)}")
    if node.address:
        options.append(f"--local_addr={node.address}")
    return options


def _environment(plan: LaunchPlan, node: NodePlan) -> dict[str, str]:
    env = {"PYTHONUNBUFFERED": "1", **plan.spec.local}
    if node.path:
        env["PATH"] = node.path
    if node.interface:
        env["GLOO_SOCKET_IFNAME"] = node.interface
        # "=" makes NCCL match the whole name instead of a prefix.
        env["NCCL_SOCKET_IFNAME"] = f"={node.interface}"
    if plan.spec.debug:
        env |= {"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "NCCL_DEBUG": "INFO", "TORCH_CPP_LOG_LEVEL": "INFO"}
    if plan.spec.launcher == "accelerate":
        env |= accelerate.variables(plan)
    if plan.spec.nnodes:
        # In torchrun's own store, restarted ranks would find the addresses of earlier ones: only the number of
        # restarts tells them apart, and each agent counts only its own (torch.distributed.rendezvous).
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    env |= node.env
    env |= _place(plan, node)
    env |= {
        "ORCH_RUN_ID": plan.run_id,
        "ORCH_ATTEMPT": str(plan.attempt),
        "ORCH_NODE": node.node,
        "ORCH_BACKEND": plan.backend,
        "ORCH_DATA": f"{node.workdir}/data",
        "ORCH_OUTPUT_DIR": f"{node.work}/{OUTPUT_FOLDER}",
    }
    return env


def _place(plan: LaunchPlan, node: NodePlan) -> dict[str, str]:
    """Return the node's place in the run, for scripts that read it; torchrun adds RANK, MASTER_ADDR and the rest.

    Where torchrun assigns node ranks (c10d) or changes the number of nodes (elastic), only its own variables,
    GROUP_RANK and GROUP_WORLD_SIZE, are right.
    """
    place = {} if plan.spec.nnodes else {"NNODES": str(len(plan.nodes))}
    if plan.rdzv_backend == "static":
        place["NODE_RANK"] = str(node.node_rank)
    return {**place, "NPROC_PER_NODE": str(node.nproc_per_node)}


def as_sh(plan: LaunchPlan) -> str:
    """Return the plan as POSIX shell, one command per node.

    Secret variables are taken from the environment; secrets in arguments are masked.
    """
    blocks = []
    for each in commands(plan):
        lines = [f"# {each.node} (node_rank {each.node_rank})", f"cd {_sh_path(each.cwd)} && env \\"]
        for name, value in each.shown_env.items():
            secret = value != each.env[name]
            lines.append(f'  {name}="${{{name}}}" \\' if secret else f"  {name}={_sh_path(value)} \\")
        lines.append("  " + " ".join(_sh_path(word) for word in masked_words(each.argv)))
        for path, text in each.files.items():
            folder = _sh_path(path.rpartition("/")[0])
            lines.insert(1, f"mkdir -p {folder} && printf %s {shlex.quote(text)} > {_sh_path(path)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def as_ps1(plan: LaunchPlan) -> str:
    """Return the plan as PowerShell, one command per node, without secret variables; other secrets are masked."""
    blocks = []
    for each in commands(plan):
        lines = [f"# {each.node} (node_rank {each.node_rank})", f"Set-Location -LiteralPath {_ps1(each.cwd)}"]
        for name, value in each.shown_env.items():
            if value == each.env[name]:
                lines.append(f"$env:{name} = {_ps1(value)}")
        for path, text in each.files.items():
            lines.append(f"New-Item -Force -ItemType File -Path {_ps1(path)} -Value {_ps1(text)} | Out-Null")
        lines.append("& " + " ".join(_ps1(word) for word in masked_words(each.argv)))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def as_dict(plan: LaunchPlan) -> dict[str, Any]:
    """Return the plan as a value for JSON, with secrets masked."""
    shown = {"env": redacted(plan.spec.env), "local": redacted(plan.spec.local)}
    settings = {**asdict(plan.spec), **shown, "args": masked_words(plan.spec.args)}
    return {
        "run_id": plan.run_id,
        "attempt": plan.attempt,
        "spec": settings,
        "backend": plan.backend,
        "nnodes": plan.nnodes if plan.spec.nnodes else len(plan.nodes),
        "world_size": plan.world_size,
        "master_addr": plan.master_addr,
        "master_port": plan.master_port,
        "rdzv_backend": plan.rdzv_backend,
        "rdzv_id": plan.rdzv_id,
        "rdzv_endpoint": plan.rdzv_endpoint,
        "notes": list(plan.notes),
        "nodes": [
            {
                "node": node.node,
                "node_rank": node.node_rank,
                "nproc_per_node": node.nproc_per_node,
                "first_rank": node.first_rank,
                "interface": node.interface,
                "address": node.address,
                "cwd": each.cwd,
                "argv": masked_words(each.argv),
                "env": each.shown_env,
                "files": dict(each.files),
            }
            for node, each in zip(plan.nodes, commands(plan), strict=True)
        ],
    }


def as_json(plan: LaunchPlan) -> str:
    """Return ``as_dict(plan)`` as JSON text."""
    return json.dumps(as_dict(plan), indent=2) + "\n"


def _sh_path(word: str) -> str:
    """Quote a word; a leading ``~/``, as in a plan made without asking the nodes, is left to the shell."""
    head, tilde, rest = word.partition("~/")
    if tilde and (head == "" or head.endswith("=")):
        return f'{shlex.quote(head) if head else ""}"$HOME"/{shlex.quote(rest)}'
    return shlex.quote(word)


def _ps1(word: str) -> str:
    """Quote a word as a PowerShell literal: single quotes are doubled, no other character is special."""
    return "'" + word.replace("'", "''") + "'"
