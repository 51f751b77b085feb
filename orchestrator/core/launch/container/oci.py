"""podman and docker: the command lines that run a command in a container and remove the container."""

from __future__ import annotations

import csv
import fnmatch
import io
from collections.abc import Collection, Mapping, Sequence

from orchestrator.core.inventory.sections.container import Mount
from orchestrator.core.launch.container.plan import ContainerPlan, InContainer
from orchestrator.core.text.secret import is_secret

# Variables that the engines themselves obey: in the engine's environment they would not only reach the container.
OBEYED = ("PATH", "HOME", "USER", "LOGNAME", "LD_*", "TMPDIR", "XDG_*", "DOCKER_*", "CONTAINER*", "REGISTRY_*")
# Set on hosts of a sandbox, which share a kernel. Elsewhere it is not set, and engines pass nothing on.
OF_SANDBOX = "ORCH_HOSTNAME"
# Devices of AMD's driver: the compute interface, and the GPUs.
AMD = ("/dev/kfd", "/dev/dri")


def podman(
    plan: ContainerPlan, cwd: str, argv: Sequence[str], env: Mapping[str, str], hidden: Collection[str]
) -> InContainer:
    """Return the command line for podman. ``env``: variables of the container; ``hidden``: names of secrets."""
    identity = ["--user", plan.user] if plan.root else ["--userns", "keep-id", "--user", plan.user]
    gpus = ["--device", "nvidia.com/gpu=all"] if plan.gpu == "nvidia" else []
    return _run(plan, [*identity, *gpus], cwd, argv, _variables(plan, env, hidden), ["--ignore"])


def docker(
    plan: ContainerPlan, cwd: str, argv: Sequence[str], env: Mapping[str, str], hidden: Collection[str]
) -> InContainer:
    """Return the command line for docker. ``env``: variables of the container; ``hidden``: names of secrets."""
    gpus = ["--gpus", "all"] if plan.gpu == "nvidia" else []
    return _run(plan, ["--user", plan.user, *gpus], cwd, argv, _variables(plan, env, hidden), [])


def _run(
    plan: ContainerPlan,
    own: Sequence[str],
    cwd: str,
    argv: Sequence[str],
    variables: tuple[dict[str, str], dict[str, str]],
    removing: Sequence[str],
) -> InContainer:
    """Return the command line with the engine's ``own`` options. ``removing``: its options for the removal.

    The container has processes of its own, so that the kernel ends all of them with the first. It outlives neither
    the engine's removal nor, by ``--stop-timeout``, the wish to end it.
    """
    devices = [*plan.devices, *(AMD if plan.gpu == "amd" else ())]
    literal, named = variables
    words = [plan.engine, "run", "--rm", "--pull", "never", "--name", plan.name]
    words += ["--network", "host", "--uts", "host", "--ipc", "host", *own]
    # Folders of the host need no labels of SELinux then.
    words += ["--security-opt", "label=disable", "--log-driver", "none", "--stop-timeout", "0"]
    words += [word for path in devices for word in ("--device", path)]
    # InfiniBand locks memory. Without root, podman cannot raise the limit of the login.
    words += ["--ulimit", "memlock=-1"] if plan.devices and (plan.engine == "docker" or plan.root) else []
    words += [word for mount in plan.mounts for word in ("--mount", _mount(mount))]
    words += ["--workdir", cwd] if cwd else []
    words += [word for name, value in literal.items() for word in ("--env", f"{name}={value}")]
    words += [word for name in (*named, OF_SANDBOX) for word in ("--env", name)]
    remove = (plan.engine, "rm", "--force", "--volumes", *removing, plan.name)
    return InContainer((*words, *plan.options, plan.image, *argv), named, remove=remove)


def _variables(
    plan: ContainerPlan, env: Mapping[str, str], hidden: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables that are written out, and those whose values the engine takes from its own environment.

    Any user of the host may read a command line, so secrets are never written out.
    """
    literal = {"HOME": plan.home, "USER": plan.login, "LOGNAME": plan.login}
    named = {}
    for name, value in env.items():
        if (
            any(fnmatch.fnmatchcase(name, pattern) for pattern in OBEYED)
            and name not in hidden
            and not is_secret(name)
        ):
            literal[name] = value
        else:
            named[name] = value
    return literal, named


def _mount(mount: Mount) -> str:
    """Return the value of ``--mount``: comma-separated values. ``--volume`` would make missing folders."""
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow([*fields, *([] if mount.writable else ["readonly"])])
    return row.getvalue()
