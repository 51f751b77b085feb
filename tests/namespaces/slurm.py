"""A real Slurm on namespace hosts: Debian's munged everywhere, slurmctld on the login host, slurmd on the others."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.namespaces import files
from tests.namespaces.host import NodeHost
from tests.namespaces.namespaces import Cluster
from tests.namespaces.switch import PATH, ClusterError

_PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
# All hosts share one home, as on many real clusters; Slurm's own files are there, too.
_FOLDER = f"{files.NODE_HOME}/slurm"
CONF = f"{_FOLDER}/slurm.conf"
_CONF = """\
ClusterName=test
SlurmctldHost={login}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# After a requeue, Slurm waits as long as a credential is valid.
AuthInfo=socket=/run/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir=/run/slurmd-spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=5
MessageTimeout=10
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1,sched_min_interval=100000
JobRequeue=1
MpiDefault=none
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return in one line why no Slurm can be started on this machine, or None if it can."""
    absent = sorted({package for name, package in _PROGRAMS.items() if shutil.which(name, path=PATH) is None})
    return f"the tests of Slurm need the Debian packages {' '.join(absent)}" if absent else None


class SlurmCluster:
    """A login host and ``nodes`` compute hosts with Slurm: a context manager. Ends what it started, by pid."""

    def __init__(self, nodes: int, *, python: str, visible: Sequence[Path]) -> None:
        names = ["login", *(f"c{number}" for number in range(1, nodes + 1))]
        options = {"SetEnv": f"SLURM_CONF={CONF}"}
        self.cluster = Cluster(
            len(names), names=names, python=python, visible=visible, shared_home=True, sshd_options=options
        )
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def login(self) -> NodeHost:
        return self.cluster.hosts[0]

    @property
    def nodes(self) -> list[NodeHost]:
        return self.cluster.hosts[1:]

    @property
    def folder(self) -> Path:
        """The folder of Slurm's files, as this machine sees it."""
        return self.login.home / "slurm"

    def __enter__(self) -> "SlurmCluster":
        self.cluster.start()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self.folder.mkdir(mode=0o755)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(
            _CONF.format(
                login=self.login.name,
                address=self.login.address,
                folder=_FOLDER,
                names=",".join(host.name for host in self.nodes),
                nodes="\n".join(
                    f"NodeName={host.name} NodeHostname={host.name} NodeAddr={host.address} CPUs=2 "
                    "RealMemory=1000 State=UNKNOWN"
                    for host in self.nodes
                ),
            )
        )
        for host in self.cluster.hosts:
            self.munge(host)
        self._await(
            lambda: all((host.root / "run/munge.socket").exists() for host in self.cluster.hosts), "munged"
        )
        self._daemon(self.login, "slurmctld", "-D")
        for host in self.nodes:
            self.slurmd(host)
        self.await_nodes(len(self.nodes))

    def munge(self, host: NodeHost) -> None:
        """Start a host's munged."""
        own = ["--socket", "/run/munge.socket", "--pid-file", "/run/munged.pid", "--log-file", "/run/munged.log"]
        seed, key = "/run/munged.seed", f"{_FOLDER}/munge.key"
        self._daemon(host, "munged", "--foreground", "--force", "--key-file", key, "--seed-file", seed, *own)

    def slurmd(self, host: NodeHost) -> None:
        """Start a host's slurmd."""
        self._daemon(host, "slurmd", "-D", "-N", host.name)

    def power_on(self, host: NodeHost) -> None:
        """Start a host that was killed, and its daemons."""
        host.power_on()
        host.await_sshd()
        self.munge(host)
        self._await(lambda: (host.root / "run/munge.socket").exists(), "munged")
        self.slurmd(host)

    def await_nodes(self, count: int) -> None:
        """Wait until so many nodes are idle."""
        self._await(
            lambda: (
                self.login.run("sinfo", "-h", "-t", "idle", "-o", "%D", env=self.env).stdout.strip() == str(count)
            ),
            "sinfo",
        )

    @property
    def env(self) -> dict[str, str]:
        """The variables of Slurm's programs."""
        return {"SLURM_CONF": CONF}

    def queue(self) -> str:
        """Return what squeue prints."""
        return self.login.run("squeue", "-h", env=self.env).stdout.strip()

    def state(self, job: str) -> str:
        """Return Slurm's state of a job."""
        return self.login.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", job, env=self.env).stdout.strip()

    def _daemon(self, host: NodeHost, name: str, *argv: str) -> None:
        program = shutil.which(name, path=PATH) or name
        with (self.cluster.folder / f"{host.name}-{name}.log").open("ab") as log:
            self._daemons[f"{host.name}-{name}"] = subprocess.Popen(
                host.enter(program, *argv), env=host.login(self.env), stdout=log, stderr=log
            )

    def _await(self, condition: object, what: str) -> None:
        assert callable(condition)
        deadline = time.monotonic() + 20
        while not condition():
            if time.monotonic() > deadline:
                raise ClusterError(f"{what} is not ready after 20 s; logs: {self.folder}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the daemons and the hosts."""
        for daemon in self._daemons.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon.pid, signal.SIGTERM)
        for daemon in self._daemons.values():
            try:
                daemon.wait(3)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.cluster.stop()
