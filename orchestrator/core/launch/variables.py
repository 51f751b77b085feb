"""Decide which environment variables of the control machine travel to the ranks."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Settings of the libraries that ranks use. torchrun sets TORCHELASTIC_* for each rank itself.
TRAVELLING = (
    "NCCL_*",
    "RCCL_*",
    "GLOO_*",
    "TORCH_*",
    "PYTORCH_*",
    "OMP_*",
    "MKL_*",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)
# They match a pattern above, but describe the control machine's image: its NCCL package, and the GPUs for which it
# builds extensions.
STAYING = frozenset(("NCCL_VERSION", "TORCH_CUDA_ARCH_LIST"))
# The first of these that is set decides which GPUs a process sees.
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# orch finds each node's own interface.
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
# torchrun and orch set these themselves.
RESERVED = frozenset(
    (
        "RANK",
        "LOCAL_RANK",
        "GROUP_RANK",
        "ROLE_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE",
        "ROLE_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "NODE_RANK",
        "NNODES",
        "NPROC_PER_NODE",
    )
)
_LOCATIONS = ("/", "~", "./", "../", "file:")


@dataclass(frozen=True)
class LocalSettings:
    """Settings exported on the control machine: those that travel, and the others by name with the reason."""

    travel: Mapping[str, str]
    stay: Mapping[str, str]


def local_settings(environ: Mapping[str, str]) -> LocalSettings:
    """Return the settings in ``environ`` that match ``TRAVELLING``, without those in ``STAYING``.

    Paths and ids of GPUs stay: they name things of the control machine.
    """
    travel, stay = {}, {}
    for name in sorted(environ):
        if name not in STAYING and any(fnmatch.fnmatchcase(name, pattern) for pattern in TRAVELLING):
            reason = _reason_to_stay(name, environ[name])
            if reason is None:
                travel[name] = environ[name]
            else:
                stay[name] = reason
    return LocalSettings(travel, stay)


def _reason_to_stay(name: str, value: str) -> str | None:
    if value.startswith(_LOCATIONS):
        return "a path of this machine"
    if name in VISIBLE and not all(part.strip().lstrip("-").isdigit() for part in value.split(",") if part):
        return "ids of this machine's GPUs"
    if not _is_text(value):
        return "not UTF-8 text"
    return None


def reserved(name: str) -> bool:
    """Return whether torchrun or orch sets the variable for each rank."""
    return name in RESERVED or name.startswith("ORCH_")


def passed(environ: Mapping[str, str], patterns: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables that ``patterns`` name, without reserved ones, and the patterns that match none."""
    found: dict[str, str] = {}
    missing = []
    for pattern in patterns:
        names = [name for name in sorted(environ) if fnmatch.fnmatchcase(name, pattern) and not reserved(name)]
        found.update({name: environ[name] for name in names if _is_text(environ[name])})
        if not names:
            missing.append(pattern)
    return found, tuple(missing)


def visible_gpus(variables: Mapping[str, str]) -> list[str] | None:
    """Return the GPUs that ranks with these variables see; None if no variable says so."""
    visible = next((variables[name] for name in VISIBLE if name in variables), None)
    if visible is None:
        return None
    return [part.strip() for part in visible.split(",") if part.strip() not in ("", "-1")]


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
