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
from orchestrator.core.text.counted import counted
from orchestrator.core.text.duration import duration
from orchestrator.core.text.secret import masked_line
from orchestrator.protocol.facts import Running

GIB, MIB = 1 << 30, 1 << 20
# Bytes of free space below which a run fails, and below which it may fail. Its logs are in the home folder, its
# files in the workdir.
LEAST_DISK = {"workdir": (100 * MIB, GIB), "home": (16 * MIB, 256 * MIB), "/tmp": (0, 256 * MIB)}
LEAST_INODES = 10_000
LEAST_SHM, USUAL_SHM = 64 * MIB, GIB
LEAST_FILES, USUAL_FILES = 256, 1024
LEAST_MEMORY = 512 * MIB
MANY_TREES, MANY_RUNS = 100, 300


def parts(examined: Examined) -> Iterator[Finding]:
    """Report each part of the facts that gave no answer."""
    remedies = {
        "gpus": "run nvidia-smi there; reboot the host if nvidia-smi hangs",
        "gpu_users": "run nvidia-smi there; reboot the host if nvidia-smi hangs",
    }
    for host in examined.hosts:
        for name, why in examined.parts(host.name).unanswered.items():
            if name not in ("versions", "torch"):
                what = f"the facts about {name.replace('_', ' ')} could not be read: {why}"
                yield Finding((host.name,), "warn", what, remedies.get(name, "examine the host by hand"))


def pings(examined: Examined) -> Iterator[Finding]:
    """Check that hosts answer pings. If a host answers SSH but no ping, ICMP is blocked."""
    for node, answer in examined.pings.items():
        loss = answer["loss"] or 0.0
        if loss == 1.0:
            what = "SSH works, but no ping from this machine is answered: ICMP is blocked on the way"
            yield warn(node, what, "let ICMP through: path MTU discovery may need it, though a run does not")
        elif loss >= 0.4:
            yield warn(node, f"{loss:.0%} of this machine's pings are lost", "check the network on the way")


def shell_noise(examined: Examined) -> Iterator[Finding]:
    """Check that the login shell prints nothing in a session without a terminal."""
    for node, known in examined.facts.items():
        if noise := known.noise:
            said = noise.strip().splitlines()[0][:60] if noise.strip() else "blank lines"
            what = f"the login shell prints {said!r} in every session, which breaks scp, rsync and other tools"
            yield warn(
                node, what, "in ~/.bashrc there, print only in interactive shells: case $- in *i*) ... ;; esac"
            )


def busy(examined: Examined) -> Iterator[Finding]:
    """Check that no other run holds the node and that no run has left processes behind."""
    held = [known.running for known in examined.facts.values() if known.running is not None]
    # A run's nodes are reported with one age, so that their findings merge into one line.
    ages = {run.run_id: max(each.age for each in held if each.run_id == run.run_id) for run in held}
    for host in examined.hosts:
        known = examined.facts[host.name]
        if known.running is not None and known.running.run_id != examined.own_run:
            yield _held(host.name, known.running, ages[known.running.run_id])
        for run_id in sorted(set(known.leftovers) - {examined.own_run}):
            what = f"processes of run {run_id} are left over without a supervisor"
            yield fail(host.name, what, f"end them: orch stop {run_id}", EndLeftovers(run_id))


def _held(node: str, running: Running, seconds: float) -> Finding:
    if not running.run_id:
        remedy = "have that user, or root there, end the run: orch stop --all"
        return fail(node, f"taken by {running.owner}; a host takes one run at a time", remedy)
    about = f"run {running.run_id} ({running.workload}) of {running.owner}"
    what = f"busy with {about}, which started {duration(seconds)} ago; a host takes one run at a time"
    remedy = f"wait for the run, watch it (orch attach {running.run_id}) or end it: orch stop {running.run_id}"
    return fail(node, what, remedy)


def other_launchers(examined: Examined) -> Iterator[Finding]:
    """Check that no torchrun is running that orch did not start."""
    for host in examined.hosts:
        for pid, _uid, command in examined.parts(host.name).torchruns or []:
            what = (
                f"a torchrun that orch did not start is running: pid {pid} ({masked_line(command.strip())[:80]})"
            )
            yield warn(host.name, what, f"if it is a leftover, run there: kill {pid}")


def own_name(examined: Examined) -> Iterator[Finding]:
    """Check that the node's own name resolves to an address that other nodes reach.

    Gloo binds the first address of that name that it can.
    """
    for host in examined.hosts:
        answer = examined.parts(host.name).own_name
        if answer is None or examined.one_machine:
            continue
        name, addresses = answer.hostname, answer.addresses
        helps = "orch sets GLOO_SOCKET_IFNAME for its own runs; for other launchers, correct /etc/hosts there"
        if not addresses:
            yield warn(host.name, f"the host's own name {name!r} does not resolve, but Gloo looks it up", helps)
        elif all(address.startswith("127.") or address == "::1" for address in addresses):
            what = f"the host's own name {name!r} resolves to {addresses[0]}, where other nodes cannot reach Gloo"
            yield warn(host.name, what, helps)


def interface(examined: Examined) -> Iterator[Finding]:
    """Check that the interfaces and addresses named in the inventory exist."""
    for host in examined.hosts:
        known = examined.facts[host.name]
        there = {entry.interface for entry in known.addresses}
        named = {"interface: in the inventory": host.interface}
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            named[f"{variable} in env: of the inventory"] = host.env.get(variable)
        for where, value in named.items():
            for name in [part.lstrip("=^") for part in (value or "").split(",") if part]:
                if name != "auto" and not any(each.startswith(name) for each in there):
                    what = (
                        f"{where} names {name}, which is not up; the interfaces up are {', '.join(sorted(there))}"
                    )
                    remedy = "correct the name, or leave it out: orch finds the interface itself"
                    better = _own_address(examined, host)
                    mend = SetKey("interface", better.interface) if better and value == host.interface else None
                    yield fail(host.name, what, remedy, mend)
        if host.fabric_address and host.fabric_address not in {entry.address for entry in known.addresses}:
            what = f"fabric_address {host.fabric_address} is none of the host's addresses"
            own = ", ".join(entry.address for entry in known.addresses if not entry.address.startswith("127."))
            better = _own_address(examined, host)
            mend = SetKey("fabric_address", better.address) if better else None
            yield fail(host.name, what, f"use one of {own}, or leave fabric_address: out", mend)


def _own_address(examined: Examined, host: Host) -> Address | None:
    """Return the address of the host that orch prefers for traffic between nodes; None if there is none."""
    own = {each.address: each for each in examined.facts[host.name].addresses}
    found = candidates(replace(host, fabric_address=None), examined.facts, examined.hosts)
    return next((own[address] for address in found if address in own), None)


def master_port(examined: Examined) -> Iterator[Finding]:
    """Check that the master port is free on the master and outside the range of ephemeral ports."""
    master = examined.hosts[0].name
    if examined.port is not None and examined.facts[master].free_port is None:
        holders = examined.parts(master).listeners or {}
        by = holders.get(str(examined.port))
        what = f"master port {examined.port} is in use" + (f" by {by}" if by else "")
        yield fail(master, what, "pass another --port, or leave --port out: orch picks a free one")
    known = examined.parts(master).limits
    low, high = (known and known.ephemeral_ports) or (0, -1)
    if examined.port is not None and low <= examined.port <= high:
        what = f"master port {examined.port} is in the range that outgoing connections use ({low} to {high})"
        yield warn(master, what, f"pass a --port below {low}, or leave --port out: orch picks a free one")


def disks(examined: Examined) -> Iterator[Finding]:
    """Check that the disks have room, can be written, and allow execution in the workdir."""
    for host in examined.hosts:
        system = examined.system(host.name)
        for what, disk in (examined.parts(host.name).disks or {}).items():
            where = what if disk.path == what else f"{what} ({disk.path})"
            if what == "/tmp" and not disk.there:
                gone = f"TMPDIR is {disk.path}, which does not exist"
                yield warn(host.name, gone, f"run there: mkdir -p {shlex.quote(disk.path)}", MakeFolder(disk.path))
                continue
            if not disk.writable and disk.free >= MIB:
                remedy = (
                    "run there: "
                    + as_root(system, f"chown $USER {disk.path}")
                    + ", or set workdir: to another folder"
                )
                severity = warn if what == "/tmp" else fail
                yield severity(host.name, f"{where} cannot be written", remedy)
            elif disk.free < LEAST_DISK[what][1]:
                severity = fail if disk.free < LEAST_DISK[what][0] else warn
                remedy = "make room (remove old runs in workdir and ~/.orch), or set workdir: to a larger disk"
                yield severity(host.name, f"{where} has {disk.free / MIB:.0f} MiB left", remedy)
            elif disk.inodes is not None and disk.inodes < LEAST_INODES:
                yield warn(host.name, f"{where} has {disk.inodes} inodes left", "delete small files on that disk")
            if disk.noexec and what == "workdir":
                remedy = (
                    "run there: "
                    + as_root(system, f"mount -o remount,exec {disk.path}")
                    + ", or set workdir: to another folder"
                )
                yield warn(host.name, f"{where} is mounted noexec: compiled extensions cannot be loaded", remedy)


def shared_memory(examined: Examined) -> Iterator[Finding]:
    """Check the size of /dev/shm, through which DataLoader workers and NCCL pass data."""
    for host in examined.hosts:
        shm = examined.parts(host.name).shm
        if shm is None or shm.size >= USUAL_SHM:
            continue
        what = f"/dev/shm has {shm.size / MIB:.0f} MiB; DataLoader workers and NCCL need more"
        remedy = as_root(examined.system(host.name), "mount -o remount,size=16G /dev/shm")
        severity = fail if shm.size < LEAST_SHM else warn
        yield severity(host.name, what, f"run there: {remedy}; with docker, pass --shm-size=16g or --ipc=host")


def limits(examined: Examined) -> Iterator[Finding]:
    """Check how many files a session may open and, with InfiniBand, how much memory it may lock."""
    for host in examined.hosts:
        known = examined.parts(host.name).limits
        if known is None:
            continue
        soft = known.open_files[0]
        if soft is not None and soft < USUAL_FILES:
            severity = fail if soft < LEAST_FILES else warn
            remedy = "add '* - nofile 65536' to /etc/security/limits.conf there and log in again"
            yield severity(
                host.name, f"a session may have {soft} files open (ulimit -n); training needs more", remedy
            )
        interfaces = examined.parts(host.name).interfaces or {}
        locked = known.locked_memory[0]
        if locked is not None and any(each.kind == "infiniband" for each in interfaces.values()):
            remedy = "add '* - memlock unlimited' to /etc/security/limits.conf there and log in again"
            yield fail(
                host.name, f"InfiniBand needs locked memory, but a session may lock only {locked} bytes", remedy
            )


def memory(examined: Examined) -> Iterator[Finding]:
    """Check available memory, swap and the limit of the control group."""
    for host in examined.hosts:
        known = examined.parts(host.name).memory
        if known is None:
            continue
        if known.available < LEAST_MEMORY:
            what = f"only {known.available / MIB:.0f} MiB of memory are available"
            yield warn(host.name, what, "end the processes that use memory there")
        used = known.swap - known.swap_free
        if used > known.total / 10:
            what = (
                f"{used / GIB:.1f} GiB of memory are swapped out: processes that wait for the disk slow all ranks"
            )
            yield warn(host.name, what, "end the swapped processes; to list them there: top, then o, then SWAP>0")
        if known.limit is not None and known.limit < known.total / 2 and known.limit < 16 * GIB:
            what = f"the container or slice is limited to {known.limit / GIB:.1f} GiB of memory"
            yield warn(host.name, what, "raise the limit (docker --memory, systemd MemoryMax=)")


def processes(examined: Examined) -> Iterator[Finding]:
    """Check that there are no more processes than cores."""
    for host in examined.hosts:
        known = examined.parts(host.name).memory
        wanted = nproc_for(host, examined.facts[host.name])
        if known is not None and wanted > known.cores:
            what = f"{wanted} processes share {counted(known.cores, 'core')}"
            yield warn(host.name, what, "lower nproc: for this host, or --nproc")


def stale_locks(examined: Examined) -> Iterator[Finding]:
    """Check that no torch extension's build has left its lock: every import would wait for it without a limit."""
    for host in examined.hosts:
        for path, seconds in examined.parts(host.name).locks or []:
            begun = f"{path} is the lock of a build that began {duration(seconds)} ago"
            what = f"{begun}: torch waits for it without a limit"
            yield warn(host.name, what, f"if no build is running there: rm {shlex.quote(path)}")


def kept(examined: Examined) -> Iterator[Finding]:
    """Check that trees and working folders do not pile up."""
    for host in examined.hosts:
        known = examined.parts(host.name).kept
        if known is not None and (known.trees > MANY_TREES or known.runs > MANY_RUNS):
            what = f"{known.path} holds {known.trees} trees and {known.runs} working folders of runs"
            yield warn(host.name, what, "remove those that no run uses: orch sync --prune")


def logout(examined: Examined) -> Iterator[Finding]:
    """Check that processes survive the end of their session."""
    for host in examined.hosts:
        known = examined.parts(host.name).logout
        if known is not None and known.kills and not known.moves:
            what = "systemd ends a session's processes at logout (KillUserProcesses), and a run with them"
            sudo = "" if examined.system(host.name).root else "sudo "
            user = examined.facts[host.name].user
            yield warn(
                host.name, what, f"run there: {sudo}loginctl enable-linger {user}; orch then leaves the session"
            )
