"""Many short runs of the workloads, each forked from one process that has imported torch: the import is what costs.

Run as a program it reads a list of jobs from stdin; ``run`` calls it.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Sequence
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
        """Where it ran."""
        return Path(self.job.folder)

    def well(self) -> str:
        """What it printed; raises AssertionError if it did not end well."""
        assert self.codes == [0] * self.job.ranks, self.output
        return self.output


def run(jobs: Sequence[Job]) -> dict[str, Done]:
    """Run the jobs one after the other; name -> how it ended."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    request = json.dumps([asdict(job) for job in jobs])
    words = [sys.executable, "-m", "tests.forked"]
    done = subprocess.run(
        words,
        input=request,
        env=env,
        cwd=WORKLOADS.parent,
        stdout=subprocess.PIPE,
        text=True,
        timeout=250,
        check=True,
    )
    codes = json.loads(done.stdout.splitlines()[-1])
    return {job.name: Done(job, codes[job.name], output_file(job).read_text()) for job in jobs}


def output_file(job: Job) -> Path:
    """What a job's ranks print goes here."""
    return Path(job.folder) / f"{job.name}.out"


def start(job: Job, rank: int, port: int) -> int:
    """Fork a rank; its process id."""
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
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    """Import what costs, then do what is asked."""
    import matplotlib

    matplotlib.use("Agg")
    # What the workloads import, and what their first optimizer does.
    import matplotlib.pyplot
    import sklearn.datasets
    import torch._dynamo
    import torch.utils.data  # noqa: F401

    assert sklearn.datasets and matplotlib.pyplot

    sys.path.insert(0, str(WORKLOADS))
    codes = {}
    for job in (Job(**{**fields, "args": tuple(fields["args"])}) for fields in json.load(sys.stdin)):
        port = free_port()
        pids = [start(job, rank, port) for rank in range(job.ranks)]
        codes[job.name] = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
