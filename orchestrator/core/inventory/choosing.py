"""Choose the hosts of a command: by name or count, the master first, with only some of their GPUs if asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.inventory.hosts import Host, Inventory, select
from orchestrator.core.inventory.reading import listed, nearest
from orchestrator.core.inventory.target import Target
from orchestrator.errors import UsageError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def chosen(inventory: Inventory, target: Target) -> tuple[Host, ...]:
    """Return the hosts that the target's options choose, the master first, then in inventory order.

    A count (``--nodes 2``) counts from the master on and skips excluded hosts. Raises UsageError for a name, an
    address or a GPU that no host has, and for options that exclude each other.
    """
    if target.include and (target.nodes or target.exclude):
        other = "--nodes" if target.nodes else "--exclude"
        raise UsageError(f"--include and {other} exclude each other", remedy="leave one of them out")
    hosts = inventory.hosts
    nodes = target.nodes
    if target.include:
        wanted = parse_filter(target.include, "--include")
        hosts, nodes = _included(hosts, wanted), ",".join(wanted)
    if target.exclude:
        hosts = _without(hosts, parse_filter(target.exclude, "--exclude"))
    master = None if target.master is None else _host_at(target.master, inventory.hosts)
    if master is not None:
        hosts = tuple(sorted(hosts, key=lambda host: host.name != master.name))
    found = select(replace(inventory, hosts=hosts), nodes)
    if master is not None and master.name not in {host.name for host in found}:
        names = ", ".join(host.name for host in found)
        raise UsageError(
            f"--master {target.master}: {master.name} takes no part in this run, which has {names}",
            remedy="name it with --nodes, too, or another master",
        )
    return found


def parse_filter(text: str, option: str) -> dict[str, tuple[int, ...]]:
    """Return the GPUs of each host in ``a@b:0,2``; a host without any stands for all of its GPUs.

    Raises UsageError.
    """
    found: dict[str, tuple[int, ...]] = {}
    for part in text.split("@"):
        name, colon, slots = part.strip().partition(":")
        numbers = [each.strip() for each in slots.split(",")] if colon else []
        if not name or not all(each.isascii() and each.isdigit() and len(each) < 6 for each in numbers):
            raise UsageError(
                f"{option} {text!r}: expected HOST[:GPU,...][@HOST...], such as node1@node2:0,2",
                remedy="to choose whole hosts: --nodes node1,node2",
            )
        found[name] = tuple(sorted({*found.get(name, ()), *map(int, numbers)}))
    return found


def _included(hosts: Sequence[Host], wanted: Mapping[str, tuple[int, ...]]) -> tuple[Host, ...]:
    _refuse_unknown(hosts, wanted, "--include")
    kept = []
    for host in hosts:
        gpus = wanted.get(host.name, ())
        _refuse_missing(host, gpus, "--include")
        kept.append(_seeing(host, gpus) if gpus else host)
    return tuple(kept)


def _without(hosts: Sequence[Host], unwanted: Mapping[str, tuple[int, ...]]) -> tuple[Host, ...]:
    _refuse_unknown(hosts, unwanted, "--exclude")
    kept = []
    for host in hosts:
        gpus = unwanted.get(host.name)
        if gpus is None:
            kept.append(host)
        elif gpus:
            if host.gpus is None:
                raise UsageError(
                    f"--exclude {host.name}:{','.join(map(str, gpus))}: the number of its GPUs is not known here",
                    remedy=f"set gpus: for {host.name} in the hosts file, or name those to use with --include",
                )
            _refuse_missing(host, gpus, "--exclude")
            left = tuple(each for each in range(host.gpus) if each not in gpus)
            if left:
                kept.append(_seeing(host, left))
    if not kept:
        raise UsageError("--exclude leaves no host", remedy="exclude fewer")
    return tuple(kept)


def _seeing(host: Host, gpus: tuple[int, ...]) -> Host:
    """Return the host with only these GPUs visible to its ranks, one rank each."""
    return replace(host, nproc=len(gpus), env={**host.env, VISIBLE: ",".join(map(str, gpus))})


def _refuse_unknown(hosts: Sequence[Host], named: Mapping[str, object], option: str) -> None:
    names = [host.name for host in hosts]
    for name in named:
        if name not in names:
            raise UsageError(
                f"{option} {name!r}: no host has this name", remedy=nearest(name, names) or listed(names)
            )


def _refuse_missing(host: Host, gpus: tuple[int, ...], option: str) -> None:
    if gpus and host.gpus is not None and gpus[-1] >= host.gpus:
        raise UsageError(f"{option} {host.name}:{gpus[-1]}: {host.name} has {host.gpus} GPUs, counted from 0")


def _host_at(wanted: str, hosts: Sequence[Host]) -> Host:
    """Return the host with this name, or else with this address. Raises UsageError."""
    for host in hosts:
        if host.name == wanted:
            return host
    for host in hosts:
        if wanted in (host.address, host.fabric_address):
            return host
    names = [host.name for host in hosts]
    if wanted == "localhost" or wanted.startswith("127.") or wanted == "::1":
        raise UsageError(
            f"--master {wanted}: every host means itself by this address",
            remedy="leave it out: orch finds an address of the first host that all others reach",
        )
    raise UsageError(
        f"--master {wanted}: no host has this name or address", remedy=nearest(wanted, names) or listed(names)
    )
