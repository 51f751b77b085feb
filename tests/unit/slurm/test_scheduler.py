"""``scheduler:`` in a hosts file, the plan of a job, its printed script, and what Slurm's words mean."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from orchestrator.core.inventory import schema
from orchestrator.core.inventory.destination import Hop
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.sections.scheduler import Slurm
from orchestrator.core.launch.command import commands
from orchestrator.core.launch.job import Gaps, job_plan, node_count, with_gaps
from orchestrator.core.launch.plan import LaunchPlan, RunSpec, Workload, assumed_facts
from orchestrator.core.launch.script.formats import TEXTS
from orchestrator.core.run.job import end_of_job, remedy_for, waiting_for
from orchestrator.errors import InventoryError, UsageError

WHOLE = """
scheduler:
  slurm:
    login: me@login.example:2222
    partition: gpu
    account: lab
    time: "1:30:00"
    nodes: 2
    gpus_per_node: 4
    options: [--exclusive, "--comment=a 'b' $c"]
    workdir: /shared/me
defaults: {python: /shared/env/bin/python, env: {NCCL_DEBUG: WARN}}
"""


def planned(text: str = WHOLE, **spec: Any) -> LaunchPlan:
    inventory = parse_inventory(text)
    assert inventory.scheduler is not None
    (host,) = inventory.hosts
    asked = RunSpec(**{"workload": Workload("t.py", "script", "t.py"), **spec})
    nodes = inventory.scheduler.nodes
    facts = assumed_facts(host)
    run_id = "20261126-080000-abcd"
    return job_plan(host, inventory.scheduler, inventory.rendezvous, asked, facts, run_id, nodes, 0, ["0" * 32])


def test_the_only_host_is_the_login_node() -> None:
    inventory = parse_inventory(WHOLE)
    (host,) = inventory.hosts
    assert (host.name, host.address, host.user, host.port) == ("login.example", "login.example", "me", 2222)
    assert (host.workdir, host.python) == ("/shared/me", "/shared/env/bin/python")
    assert inventory.scheduler == Slurm(
        Hop("login.example", "me", 2222),
        "gpu",
        "lab",
        "1:30:00",
        2,
        4,
        ("--exclusive", "--comment=a 'b' $c"),
        "/shared/me",
    )
    local = parse_inventory("scheduler: {slurm: {login: local}}")
    assert local.scheduler is not None and local.scheduler.login is None
    assert local.hosts[0].name == "login"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scheduler: {slurm: {}}", "scheduler.slurm.login: None: expected user@login[:port], or local"),
        (
            "scheduler: {slurm: {login: 'a b'}}",
            "scheduler.slurm.login: 'a b': expected user@login[:port], or local",
        ),
        (
            "{scheduler: {slurm: {login: l}}, defaults: {container: x}}",
            "defaults.container: jobs of Slurm run without a container: leave it out, or list hosts:",
        ),
        ("scheduler: {pbs: {}}", "scheduler.pbs: unknown key; known: slurm"),
        (
            "scheduler: {slurm: {login: l, partion: x}}",
            "scheduler.slurm.partion: unknown key; did you mean partition?",
        ),
        (
            "scheduler: {slurm: {login: l, time: 1:30:00}}",
            'scheduler.slurm.time: 5400: expected a time in quotes: "MINUTES", "HOURS:MINUTES:SECONDS" or "DAYS-HOURS"',
        ),
        (
            "scheduler: {slurm: {login: l, options: [exclusive]}}",
            "scheduler.slurm.options: ['exclusive']: expected a list of options of sbatch, each one word, such as "
            '["--qos=long"]',
        ),
        (
            "scheduler: {slurm: {login: l, options: ['--nodes=3']}}",
            "scheduler.slurm.options: --nodes=3: orch sets this option itself: expected it to be left out",
        ),
        (
            "scheduler: {slurm: {login: l}}\nhosts: {a: {}}",
            "hosts: a scheduler chooses the nodes: expected this key or scheduler:, not both",
        ),
    ],
)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    with pytest.raises(InventoryError) as caught:
        parse_inventory(text)
    assert said in caught.value.problems
    assert (
        not Draft7Validator(schema.hosts_schema()).is_valid(yaml.safe_load(text))
        or "options" in text
        or "'a b'" in text
        or "container" in text
    )


def test_the_schema_has_the_schedulers_keys() -> None:
    assert Draft7Validator(schema.hosts_schema()).is_valid(yaml.safe_load(WHOLE))
    keys = {*Slurm.__dataclass_fields__}
    assert set(schema.SLURM_KEYS) == keys


@pytest.mark.parametrize("given", ["c1,c2", "0", "x", "1.5"])
def test_nodes_is_a_number_of_nodes(given: str) -> None:
    assert node_count(Slurm(None, nodes=3), None) == 3
    assert node_count(Slurm(None), "5") == 5
    with pytest.raises(UsageError, match="Slurm chooses the nodes: expected how many"):
        node_count(Slurm(None), given)


def test_a_job_has_one_process_for_each_gpu_and_ranks_in_the_order_of_nodes() -> None:
    made = planned()
    assert made.world_size == 8 and made.backend == "nccl"
    assert [(node.node, node.first_rank) for node in made.nodes] == [("node0", 0), ("node1", 4)]
    assert 20_000 <= made.master_port < 30_000
    assert made.nodes[1].work == "/shared/me/runs/node1/20261126-080000-abcd"
    first, second = commands(with_gaps(made, Gaps.of("77")))
    assert "--master_addr=@first-node-77@" in second.argv and "--node_rank=1" in second.argv
    folder = "/shared/me/.orch/slurm/20261126-080000-abcd"
    assert f"--log_dir={folder}/node0/runs/20261126-080000-abcd/attempt@attempt-77@/logs" in first.argv
    with pytest.raises(UsageError, match="a Slurm job has a fixed number of nodes"):
        planned(nnodes=(1, 2))


def test_options_of_sbatch_follow_the_hosts_file_and_the_users_come_last() -> None:
    assert planned().batch == (
        "--job-name=orch-20261126-080000-abcd",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--partition=gpu",
        "--account=lab",
        "--time=1:30:00",
        "--gpus-per-node=4",
        "--signal=TERM@60",
        "--no-requeue",
        "--open-mode=append",
        "--exclusive",
        "--comment=a 'b' $c",
    )


def test_the_printed_script_leaves_only_the_nodes_place_to_the_shell(tmp_path: Path) -> None:
    text = TEXTS["sbatch"](planned(args=("--node_rank=0", "$(touch x)", "FIRST_NODE"), env={"A": "it's $HOME"}))
    assert subprocess.run(["sh", "-n"], input=text, text=True).returncode == 0
    assert "#SBATCH --exclusive\n#SBATCH '--comment=a '\"'\"'b'\"'\"' $c'\n" in text
    start = text[text.index("exec env") :]
    assert '--node_rank="${SLURM_NODEID}" --master_addr="${ORCH_FIRST_NODE}"' in start
    assert start.splitlines()[-2].endswith("t.py --node_rank=0 '$(touch x)' FIRST_NODE </dev/null")
    assert '  NODE_RANK="${SLURM_NODEID}" \\\n' in start and "  A='it'\"'\"'s $HOME' \\\n" in start
    for form in ("sh", "ps1"):
        with pytest.raises(UsageError, match="Slurm chooses the nodes"):
            TEXTS[form](planned())
    with pytest.raises(UsageError, match="accelerate needs a file of its own"):
        TEXTS["sbatch"](planned(launcher="accelerate"))


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("Resources", "job 7 waits: Resources (enough nodes are not free yet)"),
        (
            "QOSMaxJobsPerUserLimit",
            "job 7 waits: QOSMaxJobsPerUserLimit (a limit of its account or quality of service is reached)",
        ),
        ("JobHeldUser", "job 7 waits: JobHeldUser (it is held: scontrol release 7 lets it go)"),
        (
            "ReqNodeNotAvail, UnavailableNodes:c1",
            "job 7 waits: ReqNodeNotAvail, UnavailableNodes:c1 (nodes that it needs are down or reserved)",
        ),
        ("SomethingNew", "job 7 waits: SomethingNew"),
    ],
)
def test_why_a_job_waits(reason: str, line: str) -> None:
    assert waiting_for("7", reason) == line


@pytest.mark.parametrize(
    "state", ["TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "CANCELLED", "CANCELLED by 1000"]
)
def test_an_end_by_slurm_has_a_cause_and_a_remedy(state: str) -> None:
    found = end_of_job("7", "RUN", state, "c1", signalled=False)
    assert found is not None and found.what == f"Slurm ended job 7 ({state})"
    assert found.cause and found.remedy and "{" not in found.remedy


def test_a_job_that_ended_by_itself_was_not_ended_by_slurm() -> None:
    assert end_of_job("7", "RUN", "COMPLETED", "c1", signalled=False) is None
    assert end_of_job("7", "RUN", "FAILED", "c1", signalled=False) is None
    signalled = end_of_job("7", "RUN", "FAILED", "c1", signalled=True)
    assert signalled is not None and signalled.remedy.endswith("--resume RUN")


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("cannot start sbatch: No such file or directory", "put sbatch on the PATH"),
        ("Invalid account or account/partition combination specified", "correct scheduler.slurm.partition"),
        ("Requested node configuration is not available", "correct scheduler.slurm.nodes"),
        ("Requested time limit is invalid", "correct scheduler.slurm.time"),
        ("Unspecified error", "correct scheduler.slurm in"),
    ],
)
def test_the_remedy_for_a_refusal(said: str, remedy: str) -> None:
    assert remedy_for(said).startswith(remedy)
