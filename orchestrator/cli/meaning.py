"""Suggest the option or the verb that a user means: by meaning first, then by letters."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

from orchestrator.cli.launchers import launched, started
from orchestrator.core.text.nearest import did_you_mean, nearest

# Words for an option, by the option that has this meaning; a verb names the first one that it has.
SAME = {
    "--nproc": "workers num-workers procs num-procs nprocs processes num-processes ranks gpus num-gpus ngpus "
    "tasks ntasks ntasks-per-node slots gpus-per-node n np",
    "--nodes": "num-nodes nodelist machines num-machines node-count only limit include exclude subset N w",
    "--hosts": "host hostname hostfile hosts-file machinefile machine-file nodefile inventory inventory-file "
    "cluster config config-file H f",
    "--detach": "background bg daemon daemonize detached nohup no-wait async disown",
    "--no-doctor": "force skip-checks no-check no-checks ignore-errors no-preflight skip-doctor",
    "--no-sync": "no-copy no-upload no-push no-rsync skip-sync",
    "--max-restarts": "retries retry max-retries restarts restart max-restart attempts",
    "--runs-dir": "output output-dir out outdir logs log-dir logdir logs-dir results results-dir o",
    "--dry-run": "dryrun preview noop no-op check-only simulate pretend print-only show n",
    "--env": "environ environment variable var export set-env x",
    "--resume": "checkpoint ckpt restore resume-from resume-from-checkpoint restart-from load continue",
    "--connect-timeout": "timeout ssh-timeout wait-timeout",
    "--node-timeout": "heartbeat heartbeat-timeout silence",
    "--grace": "grace-period kill-after term-timeout terminate-after",
    "--fanout": "forks parallel parallelism jobs threads concurrency max-parallel",
    "--verbose": "loud vv vvv",
    "--accept-new-host-keys": "no-host-key-checking insecure accept-keys trust no-strict-host-key-checking "
    "strict-host-key-checking",
    "--project": "cwd chdir workdir-local source src dir directory root folder",
    "--master": "master-addr master-node head head-node leader rank0 main-process-ip coordinator",
    "--port": "master-port main-process-port rdzv-port",
    "--rdzv-endpoint": "rendezvous endpoint rdzv",
    "--mixed-precision": "fp16 bf16 amp precision half",
    "--single-node": "local standalone one-node single",
    "--launcher": "runner use-accelerate accelerate",
    "--follow": "tail watch live f",
    "--rank": "ranks local-rank",
    "--node": "host on machine",
    "--since": "lines tail-lines last after from",
    "--all": "everything every a",
    "--yes": "force assume-yes y no-confirm no-input non-interactive",
    "--json": "format-json output-json json-output as-json",
    "--format": "as style output-format",
    "--fix": "repair mend heal",
    "--offline": "no-connect no-network disconnected",
    "--collect-every": "save-every-seconds fetch-every sync-every sync-back",
    "--then": "afterwards finally on-end on-exit when-done and-then post post-run hook",
}
# What to do instead where no option has the meaning.
SAYS = {
    "ssh-key key private-key identity identity-file pem i": "set identity_file: in the hosts file, or "
    "IdentityFile in ~/.ssh/config",
    "user username login remote-user ssh-user l u": "set user: in the hosts file, or User in ~/.ssh/config",
    "password pass ask-pass ask-password sshpass k": "orch takes none; orch keys installs a key on every host",
    "ssh-port p": "set port: in the hosts file, or Port in ~/.ssh/config",
    "jump proxy bastion proxy-jump J": "set jump: in the hosts file, or ProxyJump in ~/.ssh/config",
    "interface iface nic network-interface ifname": "set interface: in the hosts file; orch finds it otherwise",
    "python interpreter venv virtualenv conda conda-env python-path": "set python: in the hosts file",
    "requirements pip packages": "set env: to the requirements file in the hosts file",
    "install-torch torch": "orch init has it; in a hosts file, env: names a file of packages",
    "workdir remote-dir remote-path wd": "set workdir: in the hosts file",
    "quiet silent q s": "2>/dev/null hides orch's own lines; stdout carries only the workload's",
    "sudo become root": "orch needs no root on any host",
    "spare spares standby": "set spares: in the hosts file",
    "time time-limit walltime max-time t": "wrap it: timeout --signal=INT DURATION orch ...",
}
VERBS = {
    "run": "launch start submit spawn job execute distributed",
    "plan": "dryrun dry-run preview show explain commands print",
    "doctor": "check checks diagnose verify test validate health healthcheck preflight env info ping",
    "ps": "status list ls jobs top squeue queue st",
    "stop": "kill cancel abort scancel terminate halt end quit rm",
    "stacks": "stack trace py-spy pyspy backtrace hang hung stuck dump",
    "logs": "log tail output outputs cat out stdout",
    "runs": "history past results experiments compare diff show prune",
    "dashboard": "web ui gui browser page board tensorboard serve html monitor",
    "attach": "follow watch reattach resume connect join",
    "sync": "push copy cp rsync upload deploy send scp put distribute",
    "exec": "ssh shell cmd command all pdsh pssh parallel each on everywhere",
    "init": "config configure setup new create wizard add hosts-init",
    "keys": "key ssh-keys ssh-copy-id keygen authorize copy-id",
    "workloads": "examples workload scripts samples demos demo",
    "sandbox": "local cluster embedded fake",
    "help": "man usage docs",
    "completion": "completions complete autocomplete",
    "hosts": "inventory nodes machines",
}
# What accelerate's other verbs are here.
ACCELERATES = {"config": "init", "test": "doctor", "env": "doctor"}


def suggestion(option: str, known: Collection[str]) -> str | None:
    """Return what to type instead of an option that a verb with the options ``known`` does not have."""
    bare = option.lstrip("-").replace("_", "-")
    for target, words in SAME.items():
        if target in known and bare in words.split():
            return did_you_mean(target)
    for words, text in SAYS.items():
        if bare in words.split():
            return text
    near = nearest(bare, known) if len(bare) > 1 else None
    return did_you_mean(near) if near else None


def verb_suggestion(words: Sequence[str], verbs: Collection[str], workloads: Collection[str]) -> str | None:
    """Return what to type instead of ``orch WORDS``, whose first word is no verb."""
    word, *rest = words
    if word in workloads or word.endswith(".py"):
        return did_you_mean(shlex.join(["orch", "run", word, *rest]))
    if word == "accelerate" and rest[:1] and rest[0] in ACCELERATES:
        return did_you_mean(f"orch {ACCELERATES[rest[0]]}")
    if found := launched(words):
        return f"leave out {found.launcher}: {shlex.join(['orch', 'run', *found.words])}"
    if (script := started(words)) is not None:
        return f"leave out {word}: {shlex.join(['orch', 'run', *script])} starts every rank"
    for verb, names in VERBS.items():
        if verb in verbs and word in names.split():
            return did_you_mean(shlex.join(["orch", verb, *rest]))
    same = {name: verb for verb, names in VERBS.items() if verb in verbs for name in names.split()}
    near = nearest(word, [*verbs, *workloads]) or nearest(word, same)
    if near is None:
        return None
    meant = ["run", near] if near in workloads else [near if near in verbs else same[near]]
    return did_you_mean(shlex.join(["orch", *meant, *rest]))
