"""Run every workload on three namespace hosts under ``orch run`` and under plain torchrun, and as one process.

``python -m benchmarks.workloads [NAME ...]`` prints what each learnt and how long it took. The tests use the same
cases and judges.
"""

from __future__ import annotations

import ast
import csv
import email
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.namespaces import Cluster, NodeHost, require

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
WORKLOADS = ROOT / "workloads"
TEXTS = "texts.csv"
# Where orch sync --data puts data on a namespace host.
ON_NODE = "/run/node-home/orch-work/data"


def last(pattern: str, output: str) -> float:
    """Return the last number that a pattern finds."""
    return float(re.findall(pattern, output)[-1])


def right(least: float) -> Callable[[str], str]:
    """Return a judge that requires at least this test accuracy."""

    def judge(output: str) -> str:
        accuracy = last(r"Test accuracy (\S+)", output)
        assert accuracy >= least, output
        return f"test accuracy {accuracy:.4f}"

    return judge


def fitted(output: str) -> str:
    """Require that every rank found a line close to the true one."""
    found = re.findall(r"found y = (\S+) x \+ (\S+)", output)
    assert found and all(abs(float(a) - 2) < 0.1 and abs(float(b) + 1) < 0.1 for a, b in found), output
    return f"y = {found[0][0]} x + {found[0][1]} on {len(found)} ranks"


def shrank(output: str) -> str:
    """Require an evaluation loss at least ten times smaller than before training."""
    times = last(r"Evaluation loss \S+ to \S+ (\S+) times smaller", output)
    assert times >= 10, output
    return f"evaluation loss {times:.0f} times smaller"


def went_down(output: str) -> str:
    """Require a loss more than ten times smaller in the last epoch or step than in the first."""
    losses = [float(loss) for loss in re.findall(r"loss (\d\S*)", output)]
    assert losses[-1] * 10 < losses[0], output
    return f"loss {losses[0]:.4f} to {losses[-1]:.4f}"


def wrote(output: str) -> str:
    """Require a test loss below 2 nats and below the entropy of single characters."""
    loss, entropy = last(r"test loss (\S+)", output), last(r"unigram entropy (\S+);", output)
    assert loss < 2.0 and loss < entropy, output
    return f"test loss {loss:.3f}, unigram entropy {entropy:.3f}"


def classified(output: str) -> str:
    """Require an accuracy ten points above the share of the most frequent label."""
    accuracy, majority = (
        last(r"Evaluation accuracy (\S+),", output),
        last(r"frequent one is (\S+) of them", output),
    )
    assert accuracy >= majority + 0.1, output
    return f"evaluation accuracy {accuracy:.4f}, most frequent label {majority:.4f}"


def passed_on(output: str) -> str:
    """Require every message to be right, or a rank that is alone."""
    if "is alone" in output:
        return "alone"
    times = re.findall(r"(\S[\w -]*): right on all ranks, (\S+ ms)", output)
    assert len(times) == 4 and "WRONG" not in output, output
    return ", ".join(f"{name.split('] ')[-1]} {took}" for name, took in times)


def measured(output: str) -> str:
    """Require a figure for each size; return the bus bandwidth of the last."""
    rows = re.findall(r"(all-reduce|copy) +(\d+) +\S+ +\S+ +(\S+)", output)
    assert [int(size) for _, size, _ in rows] == [1 << 10, 1 << 20], output
    return f"{rows[-1][0]} of 1 MB: bus bandwidth {rows[-1][2]} Mbit/s"


@dataclass(frozen=True)
class Case:
    """A workload with options that make it short, and the judge of its output, which returns a figure."""

    name: str
    args: tuple[str, ...]
    learnt: Callable[[str], str]

    @property
    def script(self) -> Path:
        """The workload's file."""
        return WORKLOADS / f"{self.name.replace('-', '_')}.py"


CASES = {
    "message-passing": Case("message-passing", (), passed_on),
    "hello": Case("hello", (), fitted),
    "hello-ddp": Case("hello-ddp", (), shrank),
    "train": Case("train", ("--dataset", "digits", "--batch-size", "32"), right(0.96)),
    "mnist": Case("train", (), right(0.98)),
    "multinode": Case("multinode", ("8", "2"), went_down),
    "finetune": Case(
        "finetune", ("--csv", TEXTS, "--from-scratch", "--batch-size", "8", "--epochs", "4"), classified
    ),
    # One wide layer learns sooner than several.
    "gpt": Case(
        "gpt", ("--steps", "240", "--batch-size", "8", "--layers", "1", "--heads", "4", "--width", "128"), wrote
    ),
    "allreduce-bench": Case("allreduce-bench", ("--sizes", "1K", "1M", "--pairs"), measured),
    "elastic": Case("elastic", ("--steps", "60", "--step-time", "0"), went_down),
}


def made_csv(path: Path) -> None:
    """Write real text with labels: the paragraphs of the docstrings of two of Python's own packages."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for package in (email, unittest):
            writer.writerows([text, package.__name__] for text in paragraphs(Path(str(package.__file__)).parent))


def paragraphs(folder: Path) -> list[str]:
    """Return the paragraphs, longer than 20 characters, of all docstrings in a folder, each once."""
    found: dict[str, None] = {}
    for file in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    found[" ".join(paragraph.split())] = None
    return [text for text in found if len(text) > 20]


def by_orch(cluster: Cluster, folder: Path, case: Case) -> str:
    """Return what ``orch run NAME`` prints. Raises CalledProcessError if it fails."""
    env = {**cluster.control_env(), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "orchestrator", "run", case.name, "--", *case.args]
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout


def by_torchrun(hosts: Sequence[NodeHost], case: Case, port: int) -> str:
    """Run a torchrun by hand on each host and return what all print. Raises AssertionError if one fails."""
    begun = []
    for node_rank, host in enumerate(hosts):
        work = host.home / "by-hand" / f"{case.name}-{port}"
        work.mkdir(parents=True)
        # As under orch, the script finds the data that orch sync --data sent.
        (work / "data").symlink_to(ON_NODE)
        words = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nnodes={len(hosts)}",
            f"--node-rank={node_rank}",
        ]
        words += [f"--master-addr={hosts[0].address}", f"--master-port={port}", str(case.script), *case.args]
        line = f"cd /run/node-home/by-hand/{work.name} && exec " + " ".join(words)
        env = host.login({"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"})
        inside = host.enter("sh", "-c", line)
        begun.append(
            subprocess.Popen(inside, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    outputs = [process.communicate(timeout=300)[0] for process in begun]
    assert [process.returncode for process in begun] == [0] * len(hosts), "\n".join(outputs)
    return "\n".join(outputs)


def alone(folder: Path, case: Case) -> str:
    """Return what the workload prints as one process. Raises CalledProcessError if it fails."""
    folder.mkdir(parents=True)
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    words = [sys.executable, str(case.script), *case.args]
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Run the chosen cases in each way and print the table."""
    require()
    chosen = sys.argv[1:] or [name for name in CASES if name != "mnist" or DATA.is_dir()]
    with (
        tempfile.TemporaryDirectory() as made,
        Cluster(3, python=sys.executable, visible=[ROOT]) as cluster,
    ):
        folder = Path(made)
        (folder / "hosts.yaml").write_text(cluster.hosts_yaml())
        (folder / "data").mkdir()
        made_csv(folder / "data" / TEXTS)
        data = ["--data", str(folder / "data" / TEXTS)]
        if "mnist" in chosen:
            data += ["--data", str(DATA / "MNIST")]
        env = {**cluster.control_env(), "PYTHONPATH": str(ROOT)}
        sync = [sys.executable, "-m", "orchestrator", "sync", "--project", str(WORKLOADS), *data]
        subprocess.run(sync, cwd=folder, env=env, check=True, capture_output=True)
        for number, name in enumerate(chosen):
            case = CASES[name]
            ways: dict[str, Callable[[], str]] = {
                "orch run": partial(by_orch, cluster, folder, case),
                "torchrun": partial(by_torchrun, cluster.hosts, case, 29600 + number),
                "one process": partial(alone, Path(made, "alone", name), with_data(case, folder, name)),
            }
            for way, run in ways.items():
                began = time.monotonic()
                figure = case.learnt(run())
                print(f"{name:<16} {way:<12} {time.monotonic() - began:6.1f} s  {figure}", flush=True)


def with_data(case: Case, folder: Path, name: str) -> Case:
    """Return the case with the paths of this machine's data."""
    args = tuple(str(folder / "data" / arg) if arg == TEXTS else arg for arg in case.args)
    return Case(case.name, (*args, "--data-dir", str(DATA)) if name == "mnist" else args, case.learnt)


if __name__ == "__main__":
    main()
