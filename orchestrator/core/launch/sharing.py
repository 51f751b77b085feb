"""Share out the GPUs of one machine between its hosts: those of the embedded cluster are all the same machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.variables import VISIBLE, visible_gpus
from orchestrator.core.text.counted import counted
from orchestrator.errors import PreflightError


def with_own_gpus(
    hosts: Sequence[Host],
    facts: Mapping[str, Facts],
    backend: str,
    asked: Mapping[str, str],
    local: Mapping[str, str],
) -> tuple[tuple[Host, ...], str | None]:
    """Return hosts that share one machine, each with GPUs of its own, and a note on what was shared out, or None.

    Two ranks of an NCCL group cannot use the same GPU ("Duplicate GPU detected"). If there are fewer GPUs than
    hosts, the hosts see none of them and train on the CPU. ``asked``: the run's variables, and ``local``: the
    control machine's settings, which limit the GPUs to share. Hosts keep the GPUs that the inventory, its
    variables or ``asked`` name. Raises PreflightError if ``backend`` is nccl and there are fewer GPUs than hosts.
    """
    named = [host.gpus is not None or visible_gpus({**host.variables, **asked}) is not None for host in hosts]
    ids = visible_gpus(local)
    if ids is None:
        ids = [str(number) for number in range(facts[hosts[0].name].gpus)]
    if len(hosts) == 1 or any(named) or not ids or backend == "gloo":
        return tuple(hosts), None
    count = counted(len(ids), "GPU")
    if len(ids) < len(hosts):
        what = f"{len(hosts)} hosts of the embedded cluster share {count}"
        remedy = f"to use {'it' if len(ids) == 1 else 'them'}: --single-node"
        if backend != "auto":
            raise PreflightError(f"{what}; {backend} needs one for each", remedy=f"{remedy}; or --backend gloo")
        return tuple(_seeing(host, []) for host in hosts), f"{what}, so they train on the CPU; {remedy}"
    each = len(ids) // len(hosts)
    shared = tuple(_seeing(host, ids[place * each : (place + 1) * each]) for place, host in enumerate(hosts))
    return shared, f"{len(hosts)} hosts of the embedded cluster share {count}: {each} for each"


def _seeing(host: Host, ids: Sequence[str]) -> Host:
    # ROCm's PyTorch obeys CUDA_VISIBLE_DEVICES, too (HIP's documentation, "GPU isolation techniques").
    return replace(host, env={**host.env, VISIBLE[0]: ",".join(ids)})
