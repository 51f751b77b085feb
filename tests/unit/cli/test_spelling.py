"""Which words of ``orch run`` are orch's, and which reach the workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.foreign import FOREIGN
from orchestrator.cli.running import plan, run
from orchestrator.cli.spelling import Grammar, spelled
from orchestrator.errors import UsageError
from tests.unit.cli.commands import parsed, refusal

# The words, the workload's words, and facts of the run: attributes of its spec or of its options.
SORTED: list[tuple[str, list[str], dict[str, Any]]] = [
    ("train.py --epochs 10 --lr 0.1", ["--epochs", "10", "--lr", "0.1"], {}),
    ("train.py --epochs 10 --nproc 2", ["--epochs", "10"], {"nproc": 2}),
    ("train.py --epochs=10 --nproc=2 data", ["--epochs=10", "data"], {"nproc": 2}),
    ("--nproc 2 train.py data --lr 1", ["data", "--lr", "1"], {"nproc": 2}),
    ("train.py --lr -1 -0.5 -.5 -1e-3 - -j 4", ["--lr", "-1", "-0.5", "-.5", "-1e-3", "-", "-j", "4"], {}),
    ("train.py --nproc 2 -- --nproc 3 -v", ["--nproc", "3", "-v"], {"nproc": 2}),
    ("train.py -- a -- b", ["a", "--", "b"], {}),
    ("-- train.py --nproc 3", ["--nproc", "3"], {"nproc": None}),
    ("train.py -dv --lr 1", ["--lr", "1"], {"detach": True}),
    ("train.py -jv 3", ["-jv", "3"], {}),
    ("train.py -m resnet --module x", ["-m", "resnet", "--module", "x"], {"name": "train.py"}),
    (
        "train.py --config_file c --num_processes 3",
        ["--config_file", "c", "--num_processes", "3"],
        {"nproc": None},
    ),
    ("train.py --include a --exclude b", ["--include", "a", "--exclude", "b"], {}),
    ("train.py --lr 1 --nproc_per_node 2 --master_port 99", ["--lr", "1"], {"nproc": 2, "port": 99}),
    ("-m pkg.mod --lr 1 data", ["--lr", "1", "data"], {"name": "-m pkg.mod"}),
    ("--module=pkg.mod --lr 1", ["--lr", "1"], {"name": "-m pkg.mod"}),
    ("--module --nproc 2 pkg.mod --lr 1", ["--lr", "1"], {"name": "-m pkg.mod", "nproc": 2}),
    ("-m pkg.mod -- -m x", ["-m", "x"], {"name": "-m pkg.mod"}),
    ("train.py --nnodes 2:3 --max_restarts 1", [], {"nnodes": (2, 3), "restarts": 1}),
    ("train.py --max-restarts 2", [], {"max_restarts": 2}),
    ("train.py --env A=-x --env=B=--nproc", [], {"env": {"A": "-x", "B": "--nproc"}}),
    ("train.py --nproc 2 --nproc 3", [], {"nproc": 3}),
    ("train.py --nproc 2 --nproc_per_node 2", [], {"nproc": 2}),
    ("hello --epochs 3 --dat 5", ["--epochs", "3", "--dat", "5"], {"name": "hello"}),
]


@pytest.mark.parametrize(("words", "args", "facts"), SORTED, ids=[words for words, _, _ in SORTED])
@pytest.mark.parametrize("command", [run, plan], ids=["run", "plan"])
def test_words_are_sorted(command: click.Command, words: str, args: list[str], facts: dict[str, Any]) -> None:
    found = parsed(words.split(), command)
    spec = found.options.spec
    assert list(spec.args) == args
    for name, value in facts.items():
        owner = next(each for each in (spec, spec.workload, found.options) if hasattr(each, name))
        assert getattr(owner, name) == value, name


REFUSED = [
    (
        "--epochs 10 train.py data",
        "orch has no option --epochs; an option of the workload follows its name → "
        "orch run train.py --epochs 10 data",
    ),
    (
        "--nproc 2 --lr=1 hello",
        "orch has no option --lr; an option of the workload follows its name → orch run --nproc=2 hello --lr=1",
    ),
    (
        "--lr 1",
        "orch has no option --lr → one of the workload's follows its name: orch run WORKLOAD --lr ...",
    ),
    ("--nodse 2", "orch has no option --nodse → did you mean --nodes?"),
    (
        "--workers 2 train.py",
        "orch has no option --workers → did you mean --nproc? (if it is the workload's: orch run train.py -- --workers 2)",
    ),
    ("train.py --nproc", "--nproc: a value is missing → --nproc VALUE"),
    ("train.py --nproc -- 2", "--nproc: a value is missing → --nproc VALUE"),
    ("--module --nproc 2", "-m: no module given → orch run -m MODULE"),
    (
        "train.py --nproc 2 --nproc_per_node 3",
        "--nproc 2 and --nproc_per_node 3 contradict each other → give one of them",
    ),
    (
        "train.py --nodes worker-1 --nnodes 2",
        "--nodes worker-1 and --nnodes 2 contradict each other → give one of them",
    ),
    (
        "--num_processes 7 train.py",
        "--num_processes 7: 3 hosts cannot share so many equally → "
        "--nproc N starts N on each host; --nodes chooses hosts",
    ),
    ("--num_processes 3 --nproc 1 train.py", "--num_processes and --nproc exclude each other → give one of them"),
    ("train.py --nproc -1", "--nproc -1: expected auto, gpu, cpu or a number from 1 on"),
    ("train.py --rdzv_conf x", "--rdzv_conf x: expected KEY=VALUE,..., such as join_timeout=600"),
    ("train.py --rdzv_conf rank=1", "--rdzv_conf rank=1: orch sets rank for each node → leave it out"),
    (
        "--rdzv_endpoint localhost:29400 train.py",
        "the rendezvous endpoint localhost:29400 is a different place on each of 3 hosts → "
        "leave it out: orch lets them meet at the first host; for one host: --single-node",
    ),
    (
        "train.py --env MASTER_ADDR=x",
        "--env MASTER_ADDR: torchrun and orch set this variable for each rank → leave it out",
    ),
    ("hello --epoch_s 3", "hello has no option --epoch_s → did you mean --epochs?"),
    ("hello --nodse 3", "hello has no option --nodse → did you mean --nodes?"),
    ("hello --workers 3", "hello has no option --workers → did you mean --nproc?"),
    ("hello --num_machines 3", "hello has no option --num_machines → orch's spelling is --nodes VALUE"),
    (
        "--standalone --nodes 2 train.py",
        "--standalone (orch's --single-node) and --nodes exclude each other → name one host with --nodes",
    ),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[words for words, _ in REFUSED])
def test_what_cannot_be_sorted_is_refused_in_one_line(words: str, said: str) -> None:
    assert refusal(words.split()) == said


GRAMMAR = Grammar(frozenset(("--flag", "-v", "-d")), frozenset(("--nproc", "--nodes", "--env", "--module", "-m")))
WORD = st.sampled_from(
    ["-v", "-dv", "--flag", "--nproc=2", "--x", "-x=3", "-1", "--", "a", "--node_rank=0", "-m", ""]
)


@given(st.lists(WORD | st.text(max_size=5), max_size=6))
def test_what_follows_two_dashes_is_untouched(words: list[str]) -> None:
    found = spelled(["--nproc", "2", "t.py", "--", *words], GRAMMAR)
    assert (found.own, found.workload) == (["--nproc=2"], ["t.py", *words])


@given(st.lists(WORD, max_size=8))
def test_words_in_orchs_spelling_stay_as_they_are(words: list[str]) -> None:
    try:
        found = spelled(["t.py", *words], GRAMMAR)
    except UsageError:
        return
    again = spelled(found.words, GRAMMAR)
    assert (again.words, again.notes, again.handed) == (found.words, [], [])
    # No word is lost but those that a note tells of.
    assert len(found.own) + len(found.workload) + len(found.notes) + ("--" in words) == 1 + len(words)


def test_a_bundled_workload_names_its_options() -> None:
    """Those of the functions that it imports are its own, too; those of other functions beside them are not."""
    assert refusal(["hello", "--zzzzzz"]) == (
        "hello has no option --zzzzzz → hello has --backend, --batch-size, --data-size, --epochs, --learning-rate, "
        "--lr, --output-dir, --seed"
    )
    assert refusal(["message-passing", "--zzzzzz"]) == (
        "message-passing has no option --zzzzzz → message-passing has --backend"
    )


CLASHES = [
    (
        "train.py --port 80",
        ["--port is orch's here, and train.py has an option of this name: after --, it is train.py's"],
    ),
    ("--port 80 train.py", []),
    ("train.py -- --port 80", []),
    ("train.py --num-workers 3", []),
    ("train.py --epochs 3 --zzzz --no-deepspeed", []),
    ("train.py --batch-siz 3", []),
    (
        "train.py --batchsize 3",
        ["--batchsize goes to train.py, which does not seem to have it; did you mean --batch-size?"],
    ),
    (
        "train.py --machines 3",
        ["--machines goes to train.py, which does not seem to have it; did you mean --nodes?"],
    ),
    (
        "train.py --num_gpus 3",
        ["--num_gpus goes to train.py, which does not seem to have it; orch's spelling is --nproc VALUE"],
    ),
    ("train.sh --machines 3", []),
    # orch tells bundled workloads the backend.
    ("hello --backend gloo", []),
    (
        "--node_rank 0 train.py",
        ["--node_rank is not needed: orch starts every node from this one command, and gives each its rank"],
    ),
]


@pytest.mark.parametrize(("words", "notes"), CLASHES, ids=[words for words, _ in CLASHES])
def test_a_clash_is_explained(words: str, notes: list[str]) -> None:
    assert parsed(words.split()).notes == notes


def test_options_are_found_in_modules_beside_a_script(folder: Path) -> None:
    (folder / "main.py").write_text("import options\nfrom pkg import more\n")
    (folder / "options.py").write_text("parser.add_argument('--port')")
    (folder / "pkg").mkdir()
    (folder / "pkg" / "more.py").write_text("@click.option('-g', '--grace')\ndef main(): pass")
    (folder / "pkg" / "__main__.py").write_text("parser.add_argument('--master')")
    (folder / "broken.py").write_text("def (")
    assert len(parsed(["main.py", "--port", "1", "--grace", "3"]).notes) == 2
    assert len(parsed(["-m", "pkg", "--master", "worker-2", "--port", "1"]).notes) == 1
    assert parsed(["broken.py", "--port", "1", "--zzzzz", "1"]).notes == []


# What a script may do besides naming each option, so that orch cannot tell which it lacks.
@pytest.mark.parametrize(
    "line",
    [
        "parser.add_argument(name)",
        "args, rest = parser.parse_known_args()",
        "HfArgumentParser(Arguments)",
        "fire.Fire(main)",
    ],
)
def test_a_script_that_takes_more_than_it_names_is_not_judged(folder: Path, line: str) -> None:
    text = (folder / "train.py").read_text()
    (folder / "train.py").write_text(text + line)
    assert parsed(["train.py", "--batchsize", "2"]).notes == []
    assert len(parsed(["train.py", "--port", "2"]).notes) == 1


# Options that misspell orch's after the workload's name, and what orch has.
MISSPELT = [
    ("--ndoes 2", "--nodes"),
    ("--nodse=2", "--nodes"),
    ("-nodes 2", "--nodes"),
    ("--nporc 2", "--nproc"),
    ("--nproc_per_nodes 2", "--nproc-per-node"),
    ("--master_adr a", "--master-addr"),
    ("--backnd gloo", "--backend"),
    ("--max-restart 3", "--max-restarts"),
    ("--no_synch", "--no-sync"),
    ("--detatch", "--detach"),
]


@pytest.mark.parametrize(("words", "meant"), MISSPELT, ids=[words for words, _ in MISSPELT])
@pytest.mark.parametrize("line", ["", "args, rest = parser.parse_known_args()"], ids=["whole", "open"])
def test_a_misspelt_option_of_orch_does_not_reach_the_script(
    folder: Path, words: str, meant: str, line: str
) -> None:
    (folder / "train.py").write_text((folder / "train.py").read_text() + line)
    typed = words.partition(" ")[0].partition("=")[0]
    assert refusal(["train.py", "--epochs", "3", *words.split()]) == (
        f"neither orch nor train.py has an option {typed} → did you mean {meant}? "
        "(to pass it to train.py, put -- before it)"
    )
    # The way out that it names.
    assert list(parsed(["train.py", "--", *words.split()]).options.spec.args) == words.split()


def test_an_option_that_the_script_names_is_its_own(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").write_text("from . import deep\n")
    (folder / "mine" / "deep.py").write_text("class Arguments:\n    n_odes: int = 1\n    ports: str = ''\n")
    (folder / "open.py").write_text("import mine\nHfArgumentParser(mine.deep.Arguments)\n")
    words = ["--n-odes", "2", "--ports", "80"]
    assert list(parsed(["open.py", *words]).options.spec.args) == words
    # What is part of another word does not name it, nor what a script says that lists its options.
    assert refusal(["open.py", "--ode", "2"]).startswith("not refused")
    assert refusal(["open.py", "--port_s", "2"]).startswith("neither orch nor open.py has an option --port_s")
    (folder / "train.py").write_text((folder / "train.py").read_text() + "# one node\nnode = 1\n")
    assert refusal(["train.py", "--node", "2"]).startswith("neither orch nor train.py has an option --node ")
    # argparse takes the beginning of an option.
    assert parsed(["train.py", "--num_work", "2"]).notes == []


LAUNCHED = [
    ("torchrun --nproc_per_node 2 train.py --lr 1", "torchrun", "--nproc_per_node 2 train.py --lr 1"),
    ("/opt/venv/bin/torchrun train.py", "torchrun", "train.py"),
    ("python train.py --lr 1", "python", "train.py --lr 1"),
    ("python3.11 -u train.py", "python3.11", "train.py"),
    ("python -m pkg.train --lr 1", "python", "-m pkg.train --lr 1"),
    ("-m torch.distributed.run --nproc_per_node 2 train.py", "-m torch.distributed.run", "--nproc_per_node 2 train.py"),
    ("--module=torch.distributed.launch train.py", "-m torch.distributed.launch", "train.py"),
    ("python -m torch.distributed.run train.py", "python -m torch.distributed.run", "train.py"),
    ("accelerate launch --cpu train.py", "accelerate launch", "--launcher accelerate --cpu train.py"),
    ("python -m accelerate.commands.launch train.py", "python -m accelerate.commands.launch", "--launcher accelerate train.py"),
    ("python -m accelerate.commands.accelerate_cli launch train.py", "python -m accelerate.commands.accelerate_cli", "--launcher accelerate train.py"),
    ("deepspeed --num_gpus 2 train.py", "deepspeed", "--num_gpus 2 train.py"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "launcher", "right"), LAUNCHED, ids=[words for words, _, _ in LAUNCHED])
def test_a_launcher_before_the_script_is_left_out(words: str, launcher: str, right: str) -> None:
    kept, dropped = parsed(["--nodes", "2", *words.split()]), parsed(["--nodes", "2", *right.split()])
    assert (kept.options.spec, kept.target) == (dropped.options.spec, dropped.target)
    assert kept.notes == [
        f"{launcher} is not needed: orch starts every rank itself; this is read as: orch run --nodes=2 {right}",
        *dropped.notes,
    ]
    # After --, words are not read; the refusal has the whole command.
    if not words.startswith("-"):
        assert refusal(["--nodes", "2", "--", *words.split()]).endswith(f" → orch run --nodes=2 {right}")


@pytest.mark.parametrize("starter", ["mpirun", "srun", "horovodrun"])
def test_a_starter_of_processes_is_refused(starter: str) -> None:
    said = refusal([starter, "-np", "4", "python", "train.py", "--lr", "1"])
    assert said == f"{starter}: orch starts every rank itself → orch run train.py --lr 1"


def test_a_script_may_have_a_launchers_name(folder: Path) -> None:
    (folder / "torchrun").write_text("")
    found = parsed(["./torchrun", "--lr", "1"])
    assert (found.options.spec.workload.name, found.notes) == ("torchrun", [])
    # The words of a script are its own.
    assert parsed(["train.py", "torchrun", "python"]).options.spec.args == ("torchrun", "python")


AS_TYPED = [
    ("--master_addr 127.0.0.1 train.py", "--master_addr (orch's --master) 127.0.0.1: every host means itself by "
     "this address → leave it out: orch finds an address of the first host that all others reach"),
    ("--main_process_ip worker-9 train.py", "--main_process_ip (orch's --master) worker-9: no host has this name or "
     "address → did you mean worker-3?"),
    ("--nproc_per_node x train.py", "--nproc_per_node (orch's --nproc) x: expected auto, gpu, cpu or a number from 1 on"),
    ("--num_machines 9 train.py", "--num_machines (orch's --nodes) 9: hosts.yaml has 3 hosts besides spares"),
    ("--master worker-9 train.py", "--master worker-9: no host has this name or address → did you mean worker-3?"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), AS_TYPED, ids=[words for words, _ in AS_TYPED])
def test_a_refusal_names_the_option_as_typed(words: str, said: str) -> None:
    assert refusal(words.split()) == said


def test_clicks_refusals_name_the_option_as_typed() -> None:
    with pytest.raises(click.BadParameter) as raised:
        parsed(["--master_port", "99999", "train.py"])
    assert raised.value.format_message().startswith("Invalid value for '--master_port (orch's --port)': 99999")


@pytest.mark.parametrize("command", [run, plan], ids=["run", "plan"])
def test_underscores_and_dashes_are_the_same(command: click.Command) -> None:
    for option in command.params:
        name = max(option.opts, key=len)
        if not isinstance(option, click.Option) or "-" not in name[2:]:
            continue
        value = option.type.choices[0] if isinstance(option.type, click.Choice) else "9"
        given = [] if option.is_flag else [str(value)]
        both = [
            command.make_context(command.name, [spelling, *given, "train.py"]).params
            for spelling in (name, name.replace("-", "_").replace("__", "--", 1))
        ]
        assert both[0] == both[1], name


def test_plan_takes_every_option_of_run() -> None:
    assert {name for each in run.params for name in each.opts} <= {
        name for each in plan.params for name in each.opts
    }
    shown = plan.get_help(click.Context(plan))
    assert "--detach" not in shown and "--offline" in shown


def test_another_launchers_option_means_one_thing() -> None:
    options = {name for each in run.params for name in each.opts}
    for name, meaning in FOREIGN.items():
        assert sum(map(bool, (meaning.becomes, meaning.note, meaning.answer))) == 1, name
        assert not meaning.becomes or meaning.becomes[0] in options, name
        assert meaning.takes == ("{}" in " ".join(meaning.becomes)) or not meaning.becomes, name
        assert name not in options or name in ("-m",), name


def test_the_refusals_of_unknown_launchers_tell_what_to_do() -> None:
    with pytest.raises(UsageError, match="put it after --"):
        parsed(["train.py", "--launcher", "pytorch"])
