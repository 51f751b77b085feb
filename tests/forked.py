"""Run workloads in processes forked from one that has imported torch, because the import takes seconds.

Run as a program, this module is that process: ``ForkServer`` sends a job a line on stdin and reads exit codes from stdout.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS


@dataclass(frozen=True)
class Job:
    """A workload in a folder, as one process or as several ranks that meet on loopback."""

    name: str
    script: str
    args: tuple[str, ...]
    folder: str
    ranks: int = 1


@dataclass(frozen=True)
class Done:
    """How a job ended: the exit code of each rank, and what all of them printed."""

    job: Job
    codes: list[int]
    output: str

    @property
    def folder(self) -> Path:
        """The folder that the job ran in."""
        return Path(self.job.folder)

    def well(self) -> str:
        """Return what the job printed. Raises AssertionError if a rank did not end with 0."""
        assert self.codes == [0] * self.job.ranks, self.output
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


def start(job: Job, rank: int, port: int) -> int:
    """Fork a rank and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.chdir(job.folder)
        descriptor = os.open(output_file(job), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if job.ranks > 1:
            group: dict[str, Any] = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": job.ranks,
                "MASTER_PORT": port,
            }
            os.environ.update({name: str(value) for name, value in group.items()}, MASTER_ADDR="127.0.0.1")
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
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Import the slow modules, then run the jobs."""
    import matplotlib

    matplotlib.use("Agg")
    # What the workloads import, and what their first optimizer imports.
    import matplotlib.pyplot
    import sklearn.datasets
    import torch._dynamo
    import torch.utils.data  # noqa: F401

    assert sklearn.datasets and matplotlib.pyplot

    sys.path.insert(0, str(WORKLOADS))
    # Iterating over stdin would read ahead and leave the children a buffer of further jobs.
    while line := sys.stdin.readline():
        fields = json.loads(line)
        job = Job(**{**fields, "args": tuple(fields["args"])})
        port = free_port()
        pids = [start(job, rank, port) for rank in range(job.ranks)]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


if __name__ == "__main__":
    main()
