"""The options of torchrun, accelerate launch and deepspeed, and what each means here.

Sources: the argument parsers of torch.distributed.run and torch.distributed.launch, of accelerate.commands.launch,
and of deepspeed.launcher.runner.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """Another launcher's option.

    ``takes``: whether it takes a value. Exactly one of these says what it means: ``becomes``, orch's words for it,
    with ``{}`` for the value; ``note``, why it is not needed, and orch goes on without it; ``answer``, what to do
    instead, and orch refuses it. ``anywhere``: it is orch's wherever it stands before ``--``; otherwise only
    before the workload's name, as with its own launcher.
    """

    takes: bool = True
    becomes: tuple[str, ...] = ()
    note: str = ""
    answer: str = ""
    anywhere: bool = False


def _same(*words: str, takes: bool = True) -> Foreign:
    return Foreign(becomes=words, takes=takes)


def _torchs(*words: str, takes: bool = True) -> Foreign:
    return Foreign(becomes=words, takes=takes, anywhere=True)


def _needless(why: str, *, takes: bool = True) -> Foreign:
    return Foreign(note=why, takes=takes)


def _instead(what: str, *, takes: bool = True) -> Foreign:
    return Foreign(answer=what, takes=takes)


ONE_COMMAND = "orch starts every node from this one command, and gives each its rank"
LOGGED = "orch shows and records the output of every rank"
LOGS = "leave it out: orch records every rank's output below --runs-dir"
SCRIPTS = "start the program from a Python script, or with orch exec -- PROGRAM"
PLUGIN = "set it in the script, by a plugin of Accelerator: orch starts accelerate for plain data parallelism"
CORES = "leave it out: orch binds no cores; --env OMP_NUM_THREADS=N limits a rank's threads"
SLURM = "leave it out: orch starts nodes by SSH, without Slurm"
ELASTIC = "use --nnodes MIN:MAX"
SSH_PORT = "set port: in the hosts file, under defaults: for all hosts"
THE_SCRIPTS = "put it after the script's name: it is the script's own option"

_TORCH = {
    "--nproc-per-node": _torchs("--nproc", "{}"),
    "--master-addr": _torchs("--master", "{}"),
    "--master-port": _torchs("--port", "{}"),
    "--standalone": _torchs("--single-node", takes=False),
    "--node-rank": Foreign(note=ONE_COMMAND, anywhere=True),
    "--local-addr": _instead(
        "leave it out: orch finds each host's address; fabric_address: in the hosts file sets it"
    ),
    "--monitor-interval": _needless("orch hears of a failed rank at once"),
    "--start-method": _needless("each rank is a new process"),
    "--event-log-handler": _instead("leave it out: orch records events in events.jsonl, below --runs-dir"),
    "--role": _needless("all ranks of a run have the same role"),
    "--no-python": _instead(SCRIPTS, takes=False),
    "--run-path": _instead("leave it out, or run a module with -m MODULE", takes=False),
    "--log-dir": _instead(LOGS),
    "--redirects": _needless(LOGGED),
    "-r": _needless(LOGGED),
    "--tee": _needless(LOGGED),
    "-t": _needless(LOGGED),
    "--log-line-prefix-template": _instead("leave it out: orch begins every line with [node:rank]"),
    "--local-ranks-filter": _instead("leave it out: orch logs RUN --rank N shows the output of one rank"),
    "--duplicate-stdout-filters": _instead(LOGS),
    "--duplicate-stderr-filters": _instead(LOGS),
    "--logs-specs": _instead(LOGS),
    "--numa-binding": _instead(CORES),
    "--signals-to-handle": _instead("leave it out: orch stops ranks with SIGTERM, and --grace lets them save"),
    "--shutdown-timeout": _same("--grace", "{}"),
    "--virtual-local-rank": _instead("leave it out, and let the script use LOCAL_RANK", takes=False),
    "--use-env": _needless("ranks find LOCAL_RANK in their environment", takes=False),
    "--print-completion": _instead("leave it out: orch completion prints orch's own"),
}
_ACCELERATE = {
    "--num-machines": _same("--nodes", "{}"),
    "--machine-rank": Foreign(note=ONE_COMMAND),
    "--main-process-ip": _same("--master", "{}"),
    "--main-process-port": _same("--port", "{}"),
    "--gpu-ids": _same("--env", "CUDA_VISIBLE_DEVICES={}"),
    "--num-cpu-threads-per-process": _same("--env", "OMP_NUM_THREADS={}"),
    "--config-file": _instead(
        "orch init --from FILE makes a hosts file of it; give its other settings as options"
    ),
    "--cpu": _same("--backend", "gloo", takes=False),
    "--multi-gpu": _needless("orch uses the GPUs of all hosts", takes=False),
    "--same-network": _needless("orch finds addresses that all hosts reach", takes=False),
    "--quiet": _needless("a failed run ends with one report, not with the launcher's traceback", takes=False),
    "-q": _needless("a failed run ends with one report, not with the launcher's traceback", takes=False),
    "--enable-cpu-affinity": _instead(CORES, takes=False),
    "--downcast-bf16": _instead("leave it out: it is for TPUs, which orch does not start", takes=False),
    "--main-training-function": _instead("leave it out: it is for TPUs, which orch does not start"),
    "--vm": _instead("leave it out: it is for TPUs, which orch does not start"),
    "--use-deepspeed": _instead(PLUGIN, takes=False),
    "--use-fsdp": _instead(PLUGIN, takes=False),
    "--use-megatron-lm": _instead(PLUGIN, takes=False),
    "--use-parallelism-config": _instead(PLUGIN, takes=False),
    "--zero-stage": _instead(PLUGIN),
    "--mpirun-hostfile": _instead("use --hosts FILE: orch starts the ranks without mpirun"),
}
_DEEPSPEED = {
    "--hostfile": _same("--hosts", "{}"),
    "-H": _same("--hosts", "{}"),
    "-i": _same("--include", "{}"),
    "-e": _same("--exclude", "{}"),
    "--num-nodes": _same("--nodes", "{}"),
    "--num-gpus": _same("--nproc", "{}"),
    "--num-accelerators": _same("--nproc", "{}"),
    "--min-elastic-nodes": _instead(ELASTIC),
    "--max-elastic-nodes": _instead(ELASTIC),
    "--elastic-training": _instead(ELASTIC, takes=False),
    "--launcher-args": _instead("leave it out: orch starts the nodes by SSH itself"),
    "--no-local-rank": _needless("ranks find LOCAL_RANK in their environment", takes=False),
    "--no-ssh": _instead("leave it out, and --node_rank with it: orch starts every node by SSH", takes=False),
    "--no-ssh-check": _needless("orch checks while it connects", takes=False),
    "--force-multi": _needless("orch starts one host as it starts many", takes=False),
    "--save-pid": _instead("leave it out: orch ps lists runs, and orch stop RUN ends one", takes=False),
    "--enable-each-rank-log": _instead(LOGS),
    "--autotuning": _instead("leave it out: the autotuner needs DeepSpeed's own launcher"),
    "--comment": _instead(SLURM),
    "--account": _instead(SLURM),
    "--bind-cores-to-rank": _instead(CORES, takes=False),
    "--bind-core-list": _instead(CORES),
    "--ssh-port": _instead(SSH_PORT),
    "--deepspeed": _instead(THE_SCRIPTS, takes=False),
    "--deepspeed-config": _instead(THE_SCRIPTS),
}
FOREIGN: dict[str, Foreign] = {**_TORCH, **_ACCELERATE, **_DEEPSPEED}
# Families of options that accelerate writes into its config.
FAMILIES = (
    "--fsdp-",
    "--deepspeed-",
    "--megatron-lm-",
    "--fp8-",
    "--dynamo-",
    "--parallelism-config-",
    "--zero3-",
)
TPU = _instead("leave it out: it is for TPUs, which orch does not start")


def foreign(option: str) -> Foreign | None:
    """Return what another launcher's option means here; None if none of them has it. Dashes separate its words."""
    found = FOREIGN.get(option)
    if found is None and option.startswith(FAMILIES):
        return _instead(PLUGIN)
    if found is None and option.startswith("--tpu"):
        return TPU
    return found
