"""apptainer: the command line that runs a command in a container, which is a process like any other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from orchestrator.core.inventory.sections.container import Mount
from orchestrator.core.launch.container.plan import ContainerPlan, InContainer

# apptainer gives a container the variables with this prefix, without it.
PREFIX = "APPTAINERENV_"
GPUS = {"nvidia": ["--nv"], "amd": ["--rocm"]}


def apptainer(
    plan: ContainerPlan, cwd: str, argv: Sequence[str], env: Mapping[str, str], hidden: Collection[str]
) -> InContainer:
    """Return the command line for apptainer. ``env``: the variables of the container, none of them written out.

    apptainer itself shares network, IPC, devices and processes with the host, and keeps the user.
    """
    words = ["apptainer", "exec", "--cleanenv", "--home", plan.home, *GPUS.get(plan.gpu or "", [])]
    words += [word for mount in plan.mounts for word in ("--bind", _bind(mount))]
    words += ["--pwd", cwd] if cwd else []
    # The processes between supervisor and container need the mark of the run, too.
    marks = {name: value for name, value in env.items() if name.startswith("ORCH_")}
    inner = {f"{PREFIX}{name}": value for name, value in env.items()}
    return InContainer((*words, *plan.options, plan.image, *argv), {**marks, **inner})


def _bind(mount: Mount) -> str:
    return f"{mount.source}:{mount.target}" + ("" if mount.writable else ":ro")
