"""Run workloads in processes forked from one that has imported torch, because the import takes seconds.

Run as a program, this module is that process: ``ForkServer`` sends a job a line on stdin and reads exit codes from stdout.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.workloads import WORKLOADS

# How long the other ranks may take to end when one has failed, in seconds.
PATIENCE = 30


@dataclass(frozen=True)
class Job:
    """A script in a folder: as one process, as several ranks that meet on loopback, or under torchrun."""

    name: str
    script: str
    args: tuple[str, ...]
    folder: str
    ranks: int = 1
    torchrun: bool = False


@dataclass(frozen=True)
class Done:
    """How a job ended: the exit code of each rank, or that of torchrun, and what the ranks printed."""

    job: Job
    codes: list[int]
    output: str

    @property
    def folder(self) -> Path:
        """The folder that the job ran in."""
        return Path(self.job.folder)

    def well(self) -> str:
        """Return what the job printed. Raises AssertionError if a process did not end with 0."""
        assert not any(self.codes), self.output + error_file(self.job).read_text()
        return self.output


class ForkServer:
    """The process that all ranks are forked from. A context, whose end ends the process."""

    def __enter__(self) -> ForkServer:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        words = [sys.executable, "-m", "tests.forked"]
        self.process = subprocess.Popen(
            words, env=env, cwd=WORKLOADS.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def run(self, job: Job) -> Done:
        """Run a job to its end and return how it ended."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(asdict(job)) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return Done(job, codes, output_file(job).read_text())


def output_file(job: Job) -> Path:
    """Return the file that a job's ranks print to."""
    return Path(job.folder) / f"{job.name}.out"


def error_file(job: Job) -> Path:
    """Return the file that a job's processes print their errors to: torchrun's own lines are kept apart."""
    return Path(job.folder) / f"{job.name}.err" if job.torchrun else output_file(job)


def started(job: Job) -> list[int]:
    """Fork the processes of a job and return their process ids."""
    if job.torchrun or job.ranks == 1:
        return [forked(job, {})]
    group = {"WORLD_SIZE": job.ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [forked(job, {**group, "RANK": rank, "LOCAL_RANK": rank}) for rank in range(job.ranks)]


def forked(job: Job, variables: Mapping[str, object]) -> int:
    """Fork a process that runs the job's script, or torchrun, with these variables; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.chdir(job.folder)
        for descriptor, path in ((1, output_file(job)), (2, error_file(job))):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        os.environ.update({name: str(value) for name, value in variables.items()})
        if job.torchrun:
            from torch.distributed.run import main as torchrun

            # torchrun itself, told to fork its ranks.
            words = ["--standalone", f"--nproc-per-node={job.ranks}", "--run-path", "--start-method=fork"]
            torchrun([*words, job.script, *job.args])
        else:
            sys.argv = [job.script, *job.args]
            runpy.run_path(job.script, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    """Return a port that nothing listens on, of those that the system gives to no connection."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def ended(pids: list[int]) -> list[int]:
    """Wait for processes and return their exit codes. If one fails, end those that are left ``PATIENCE`` later."""
    codes: dict[int, int] = {}

    def end(*_: object) -> None:
        for pid in set(pids) - codes.keys():
            os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid]:
            signal.alarm(PATIENCE)
    signal.alarm(0)
    return [codes[pid] for pid in pids]


def import_transformers() -> None:
    """Import what ``finetune`` takes from transformers, which imports a class when the class is first used."""
    import accelerate
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BertForSequenceClassification,
        DataCollatorWithPadding,
        PreTrainedTokenizerFast,
        PrinterCallback,
        Trainer,
    )

    assert accelerate and AutoModelForSequenceClassification and AutoTokenizer and BertForSequenceClassification
    assert DataCollatorWithPadding and PreTrainedTokenizerFast and PrinterCallback and Trainer


def main() -> None:
    """Import the slow modules, then run the jobs."""
    import matplotlib

    matplotlib.use("Agg")
    # What the workloads import, and what their first optimizer imports.
    import matplotlib.pyplot
    import sklearn.datasets
    import torch._dynamo
    import torch.distributed.run
    import torch.utils.data

    assert sklearn.datasets and matplotlib.pyplot and torch

    sys.path.insert(0, str(WORKLOADS))
    # Iterating over stdin would read ahead and leave the children a buffer of further jobs.
    while line := sys.stdin.readline():
        fields = json.loads(line)
        job = Job(**{**fields, "args": tuple(fields["args"])})
        if Path(job.script).stem == "finetune":
            import_transformers()
        print(json.dumps(ended(started(job))), flush=True)


if __name__ == "__main__":
    main()
