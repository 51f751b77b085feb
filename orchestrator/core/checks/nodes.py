"""Checks of one node at a time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace

from orchestrator.core.checks.facts import Address
from orchestrator.core.checks.findings import EndLeftovers, Examined, Finding, MakeFolder, SetKey, fail, warn
from orchestrator.core.checks.remedies import as_root
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.addresses import candidates
from orchestrator.core.launch.plan import nproc_for
from orchestrator.core.text.secret import masked_line
from orchestrator.protocol.facts import Running

GIB, MIB = 1 << 30, 1 << 20
# Bytes with less than which a run fails, or may: it writes its logs to the home, and its files to the workdir.
LEAST_DISK = {"workdir": (100 * MIB, GIB), "home": (16 * MIB, 256 * MIB), "/tmp": (0, 256 * MIB)}
LEAST_INODES = 10_000
LEAST_SHM, USUAL_SHM = 64 * MIB, GIB
LEAST_FILES, USUAL_FILES = 256, 1024
LEAST_MEMORY = 512 * MIB
MANY_TREES, MANY_RUNS = 100, 300


def parts(examined: Examined) -> Iterator[Finding]:
    """A part of the facts that gave no answer is told, and spoils no other."""
    remedies = {
        "gpus": "run nvidia-smi there; if it hangs, the driver needs a reboot",
        "gpu_users": "run nvidia-smi there; if it hangs, the driver needs a reboot",
        "versions": "run that interpreter there by hand; set python: for this host to one that works",
        "torch": "run import torch there by hand; set python: for this host to one that works",
    }
    for host in examined.hosts:
        for name, why in examined.parts(host.name).unanswered.items():
            if name not in ("versions", "torch"):
                what = f"its {name.replace('_', ' ')} could not be looked at: {why}"
                yield Finding((host.name,), "warn", what, remedies.get(name, "look at it by hand"))


def pings(examined: Examined) -> Iterator[Finding]:
    """Hosts answer this machine's ping; one that answers SSH and no ping has ICMP blocked."""
    for node, answer in examined.pings.items():
        loss = answer["loss"] or 0.0
        if loss == 1.0:
            what = "answers SSH, but no ping from this machine: ICMP is blocked somewhere"
            yield warn(node, what, "no harm to a run; path MTU discovery may need it: let ICMP through")
        elif loss >= 0.4:
            yield warn(node, f"{loss:.0%} of this machine's pings get lost", "look at the network between")


def shell_noise(examined: Examined) -> Iterator[Finding]:
    """Output of a login shell."""
    for node, known in examined.facts.items():
        if noise := known.noise:
            said = noise.strip().splitlines()[0][:60] if noise.strip() else "blank lines"
            what = f"its login shell prints {said!r} without being asked; scp, rsync and other tools break on that"
            yield warn(node, what, "in ~/.bashrc there, put it behind: case $- in *i*) ... ;; esac")


def busy(examined: Examined) -> Iterator[Finding]:
    """No other run holds the node, and none is left over."""
    held = [known.running for known in examined.facts.values() if known.running is not None]
    # One age for all its nodes, so that they are told of in one line.
    ages = {run.run_id: max(each.age for each in held if each.run_id == run.run_id) for run in held}
    for host in examined.hosts:
        known = examined.facts[host.name]
        if known.running is not None and known.running.run_id != examined.own_run:
            yield _held(host.name, known.running, ages[known.running.run_id])
        for run_id in sorted(set(known.leftovers) - {examined.own_run}):
            what = f"has processes of run {run_id} left over, and no supervisor for them"
            yield fail(host.name, what, f"end them: orch stop {run_id}", EndLeftovers(run_id))


def _held(node: str, running: Running, seconds: float) -> Finding:
    if not running.run_id:
        remedy = "that user, or root there, can end it: orch stop --all"
        return fail(node, f"its lock is held by {running.owner}", remedy)
    what = f"is busy with run {running.run_id} ({running.workload}) of {running.owner}, for {age(seconds)}"
    remedy = f"wait, watch it: orch attach {running.run_id}, or end it: orch stop {running.run_id}"
    return fail(node, what, remedy)


def other_launchers(examined: Examined) -> Iterator[Finding]:
    """No torchrun that orch did not start."""
    for host in examined.hosts:
        for pid, _uid, command in examined.parts(host.name).torchruns or []:
            what = (
                f"a torchrun that orch did not start runs there: pid {pid} ({masked_line(command.strip())[:80]})"
            )
            yield warn(host.name, what, f"if it is a leftover: kill {pid} there")


def own_name(examined: Examined) -> Iterator[Finding]:
    """The node's own name leads to an address of its own. Gloo binds the first one that it can."""
    for host in examined.hosts:
        answer = examined.parts(host.name).own_name
        if answer is None or examined.one_machine:
            continue
        name, addresses = answer.hostname, answer.addresses
        helps = "orch sets GLOO_SOCKET_IFNAME for its runs; for others, correct /etc/hosts there"
        if not addresses:
            yield warn(host.name, f"cannot resolve its own name {name!r}, which Gloo asks for", helps)
        elif all(address.startswith("127.") or address == "::1" for address in addresses):
            what = f"its own name {name!r} leads to {addresses[0]}, where Gloo would wait in vain for other nodes"
            yield warn(host.name, what, helps)


def interface(examined: Examined) -> Iterator[Finding]:
    """The interfaces and addresses that are named exist."""
    for host in examined.hosts:
        known = examined.facts[host.name]
        there = {entry.interface for entry in known.addresses}
        named = {"interface: in the inventory": host.interface}
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            named[f"{variable} in env: of the inventory"] = host.env.get(variable)
        for where, value in named.items():
            for name in [part.lstrip("=^") for part in (value or "").split(",") if part]:
                if name != "auto" and not any(each.startswith(name) for each in there):
                    what = f"{where} names {name}, which is not up there; it has {', '.join(sorted(there))}"
                    remedy = "correct it, or leave it out: orch finds the interface itself"
                    better = _own_address(examined, host)
                    mend = SetKey("interface", better.interface) if better and value == host.interface else None
                    yield fail(host.name, what, remedy, mend)
        if host.fabric_address and host.fabric_address not in {entry.address for entry in known.addresses}:
            what = f"fabric_address {host.fabric_address} is none of its addresses"
            own = ", ".join(entry.address for entry in known.addresses if not entry.address.startswith("127."))
            better = _own_address(examined, host)
            mend = SetKey("fabric_address", better.address) if better else None
            yield fail(host.name, what, f"use one of {own}, or leave it out", mend)


def _own_address(examined: Examined, host: Host) -> Address | None:
    """The host's own address at which the others would be met best."""
    own = {each.address: each for each in examined.facts[host.name].addresses}
    found = candidates(replace(host, fabric_address=None), examined.facts, examined.hosts)
    return next((own[address] for address in found if address in own), None)


def master_port(examined: Examined) -> Iterator[Finding]:
    """The port that the ranks meet at is free on the master."""
    master = examined.hosts[0].name
    if examined.port is not None and examined.facts[master].free_port is None:
        holders = examined.parts(master).listeners or {}
        by = holders.get(str(examined.port))
        what = f"master port {examined.port} is in use" + (f" by {by}" if by else "")
        yield fail(master, what, "pass another --port, or leave it out and orch picks a free one")
    known = examined.parts(master).limits
    low, high = (known and known.ephemeral_ports) or (0, -1)
    if examined.port is not None and low <= examined.port <= high:
        what = f"master port {examined.port} is one of those that outgoing connections are given ({low} to {high})"
        yield warn(master, what, f"take one below {low}, or leave it out and orch picks a free one")


def disks(examined: Examined) -> Iterator[Finding]:
    """There is room, and it can be written."""
    for host in examined.hosts:
        system = examined.system(host.name)
        for what, disk in (examined.parts(host.name).disks or {}).items():
            where = what if disk.path == what else f"{what} ({disk.path})"
            if what == "/tmp" and not disk.there:
                gone = f"TMPDIR is {disk.path}, which does not exist there"
                yield warn(host.name, gone, f"there: mkdir -p {shlex.quote(disk.path)}", MakeFolder(disk.path))
                continue
            if not disk.writable and disk.free >= MIB:
                remedy = as_root(system, f"chown $USER {disk.path}") + ", or set workdir: elsewhere"
                severity = warn if what == "/tmp" else fail
                yield severity(host.name, f"{where} cannot be written", remedy)
            elif disk.free < LEAST_DISK[what][1]:
                severity = fail if disk.free < LEAST_DISK[what][0] else warn
                remedy = "make room there (old runs in workdir and ~/.orch), or set workdir: to a larger disk"
                yield severity(host.name, f"{where} has {disk.free / MIB:.0f} MiB left", remedy)
            elif disk.inodes is not None and disk.inodes < LEAST_INODES:
                yield warn(host.name, f"{where} has {disk.inodes} inodes left", "delete small files there")
            if disk.noexec and what == "workdir":
                remedy = as_root(system, f"mount -o remount,exec {disk.path}") + ", or set workdir: elsewhere"
                yield warn(host.name, f"{where} is mounted noexec: compiled extensions cannot be loaded", remedy)


def shared_memory(examined: Examined) -> Iterator[Finding]:
    """DataLoader workers and NCCL pass their data through /dev/shm."""
    for host in examined.hosts:
        shm = examined.parts(host.name).shm
        if shm is None or shm.size >= USUAL_SHM:
            continue
        what = f"/dev/shm has {shm.size / MIB:.0f} MiB; DataLoader workers and NCCL need more"
        remedy = as_root(examined.system(host.name), "mount -o remount,size=16G /dev/shm")
        severity = fail if shm.size < LEAST_SHM else warn
        yield severity(host.name, what, f"there: {remedy}; in docker: --shm-size=16g or --ipc=host")


def limits(examined: Examined) -> Iterator[Finding]:
    """What a session may have open and locked."""
    for host in examined.hosts:
        known = examined.parts(host.name).limits
        if known is None:
            continue
        soft = known.open_files[0]
        if soft is not None and soft < USUAL_FILES:
            severity = fail if soft < LEAST_FILES else warn
            remedy = "add '* - nofile 65536' to /etc/security/limits.conf there and log in anew"
            yield severity(
                host.name, f"a session may have {soft} files open (ulimit -n); training needs more", remedy
            )
        interfaces = examined.parts(host.name).interfaces or {}
        locked = known.locked_memory[0]
        if locked is not None and any(each.kind == "infiniband" for each in interfaces.values()):
            remedy = "add '* - memlock unlimited' to /etc/security/limits.conf there and log in anew"
            yield fail(host.name, f"InfiniBand needs locked memory, and a session may lock {locked} bytes", remedy)


def memory(examined: Examined) -> Iterator[Finding]:
    """There is memory to begin with."""
    for host in examined.hosts:
        known = examined.parts(host.name).memory
        if known is None:
            continue
        if known.available < LEAST_MEMORY:
            what = f"{known.available / MIB:.0f} MiB of memory are available"
            yield warn(host.name, what, "end what uses it there")
        used = known.swap - known.swap_free
        if used > known.total / 10:
            what = f"{used / GIB:.1f} GiB of it are swapped out: what waits for the disk holds all ranks back"
            yield warn(host.name, what, "end what uses its memory there: top, then o, then SWAP>0")
        if known.limit is not None and known.limit < known.total / 2 and known.limit < 16 * GIB:
            what = f"its container or slice is limited to {known.limit / GIB:.1f} GiB of memory"
            yield warn(host.name, what, "raise the limit (docker --memory, systemd MemoryMax=)")


def processes(examined: Examined) -> Iterator[Finding]:
    """Not more processes than cores: they would take turns."""
    for host in examined.hosts:
        known = examined.parts(host.name).memory
        wanted = nproc_for(host, examined.facts[host.name])
        if known is not None and wanted > known.cores:
            what = f"{wanted} processes on {known.cores} cores take turns"
            yield warn(host.name, what, "lower nproc: for this host, or --nproc")


def stale_locks(examined: Examined) -> Iterator[Finding]:
    """No lock is left of a build of a torch extension: every import of it waits for that, without a limit."""
    for host in examined.hosts:
        for path, seconds in examined.parts(host.name).locks or []:
            what = f"{path} is left of a build that ended {age(seconds)} ago: torch waits for it without a limit"
            yield warn(host.name, what, f"if nothing builds there: rm {shlex.quote(path)}")


def kept(examined: Examined) -> Iterator[Finding]:
    """Trees and run folders do not pile up."""
    for host in examined.hosts:
        known = examined.parts(host.name).kept
        if known is not None and (known.trees > MANY_TREES or known.runs > MANY_RUNS):
            what = f"{known.path} holds {known.trees} trees and {known.runs} working folders of runs"
            yield warn(host.name, what, "remove what no run uses: orch sync --prune")


def logout(examined: Examined) -> Iterator[Finding]:
    """What a session leaves running goes on when it ends."""
    for host in examined.hosts:
        known = examined.parts(host.name).logout
        if known is not None and known.kills and not known.moves:
            what = "its systemd ends a session's processes at logout (KillUserProcesses): a run would end with it"
            sudo = "" if examined.system(host.name).root else "sudo "
            user = examined.facts[host.name].user
            yield warn(
                host.name, what, f"there: {sudo}loginctl enable-linger {user}; orch then leaves the session"
            )


def age(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
