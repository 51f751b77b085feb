"""Gather the facts of the machine: system, limits, memory, disks, network and names."""

from __future__ import annotations

import getpass
import glob
import os
import re
import resource
import shutil
import socket
import time

from ...protocol.facts import (
    Disk,
    Home,
    Interface,
    Limits,
    Logout,
    Memory,
    OwnName,
    System,
    Timekeeping,
    Variables,
)
from ..host import bounded, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Prefixes of the variables that change how training behaves.
DRIFT = ("NCCL_", "GLOO_", "TORCH_", "CUDA_", "OMP_", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTORCH_", "MKL_")
# Texts in the command lines of PyTorch launchers.
LAUNCHERS = ("torch.distributed.run", "/torchrun ", "deepspeed.launcher")
# What adjtimex(2) returns for a clock that is not synchronised.
TIME_ERROR = 5
FIREWALLS = ("ufw", "firewall-cmd", "nft", "iptables")


def system() -> System:
    """Return the facts of the operating system, the C library, and the firewall tool that remedies refer to."""
    return System(
        os=os_release().get("PRETTY_NAME", os.uname().sysname),
        kernel=os.uname().release,
        machine=os.uname().machine,
        libc=libc(),
        firewall=first_of(FIREWALLS),
        boot_id=paths.boot_id(),
        root=os.getuid() == 0,
        network=network(),
    )


def network() -> str:
    """Return the inode of the network namespace; each namespace, as of a container, has a host lock of its own."""
    try:
        return str(os.stat("/proc/self/ns/net").st_ino)
    except OSError:
        return ""


def libc() -> str:
    """Return name and version of the GNU C library, ``glibc 2.36``; empty for another C library."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def first_of(programs: Sequence[str]) -> str | None:
    """Return the first of ``programs`` that is installed, in sbin as well, or None."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return next((name for name in programs if shutil.which(name, path=path)), None)


def os_release() -> dict[str, str]:
    """Return the fields of /etc/os-release (os-release(5))."""
    fields = {}
    for line in read("/etc/os-release").splitlines():
        name, _, value = line.partition("=")
        fields[name] = value.strip("\"'")
    return fields


def read(path: str) -> str:
    """Return the first 65536 characters of a file without surrounding white space; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536).strip()
    except OSError:
        return ""


def own_name() -> OwnName:
    """Resolve this host's own name."""
    name = socket.gethostname()
    try:
        found = resolved(name)
    except OSError as error:
        return OwnName(hostname=name, addresses=(), error=str(error))
    return OwnName(hostname=name, addresses=found)


def resolved(name: str) -> tuple[str, ...]:
    """Return the sorted addresses that a name resolves to on this node; raises OSError if it does not resolve."""
    return tuple(sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}))


def names(wanted: Sequence[str], limit: float = 4.0) -> dict[str, tuple[str, ...]]:
    """Resolve names: sorted addresses for each, none if it does not resolve.

    Names are left out if their turn comes after more than ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    found: dict[str, tuple[str, ...]] = {}
    for name in wanted:
        if time.monotonic() > deadline:
            break
        try:
            found[name] = resolved(name)
        except OSError:
            found[name] = ()
    return found


def timekeeping() -> Timekeeping:
    """Return whether the clock is synchronised (timesyncd, adjtimex(2)); None if the kernel does not tell."""
    if os.path.exists("/run/systemd/timesync/synchronized"):
        return Timekeeping(synchronised=True)
    import ctypes  # slow to import, and seldom needed

    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    return Timekeeping(synchronised=None if state < 0 else state != TIME_ERROR)


def logout() -> Logout:
    """Return whether systemd ends this session's processes when it closes (logind.conf(5), KillUserProcesses).

    Lingering does not prevent that: systemd ends every process in the session's scope. The supervisor can leave
    the scope (``moves``) if the user has a service manager that outlives the session.
    """
    settings = {"KillUserProcesses": "no", "KillExcludeUsers": "root", "KillOnlyUsers": ""}
    for path in ["/etc/systemd/logind.conf"] + sorted(glob.glob("/etc/systemd/logind.conf.d/*.conf")):
        for line in read(path).splitlines():
            key, _, value = line.partition("=")
            if key.strip() in settings:
                settings[key.strip()] = value.strip()
    user = getpass.getuser()
    kills = settings["KillUserProcesses"].lower() in ("yes", "true", "on", "1")
    spared = user in settings["KillExcludeUsers"].split()
    only = settings["KillOnlyUsers"].split()
    in_scope = re.search(r"session-[^/]*\.scope", read("/proc/self/cgroup")) is not None
    hit = kills and not spared and (not only or user in only) and in_scope
    return Logout(kills=hit, moves=lingers(user))


def lingers(user: str) -> bool:
    """Return whether a user's service manager outlives sessions (loginctl(1)) and can be called with busctl(1)."""
    here = os.path.exists(os.path.join("/var/lib/systemd/linger", user)) and first_of(["busctl"]) is not None
    return here and os.path.exists("/run/user/%d/bus" % os.getuid())


def leave_session(name: str) -> None:
    """Move this process from its session's scope to a new scope of the user's service manager.

    ``systemd-run --user --scope`` does the same (org.freedesktop.systemd1(5), StartTransientUnit). ``name``: the
    scope is ``orch-<name>.scope``. Raises bounded.NoAnswer if systemd refuses.
    """
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    call = ["StartTransientUnit", "ssa(sv)a(sa(sv))", "orch-%s.scope" % name, "fail", "1", "PIDs", "au", "1"]
    environ = dict(os.environ, XDG_RUNTIME_DIR="/run/user/%d" % os.getuid())
    bounded.run(["busctl", "--user", "call"] + manager + call + [str(os.getpid()), "0"], 10.0, environ)


def limits() -> Limits:
    """Return the resource limits of this session, and the kernel's range of ephemeral ports."""
    words = read("/proc/sys/net/ipv4/ip_local_port_range").split()
    return Limits(
        open_files=limit(resource.RLIMIT_NOFILE),
        processes=limit(resource.RLIMIT_NPROC),
        locked_memory=limit(resource.RLIMIT_MEMLOCK),
        ephemeral_ports=(int(words[0]), int(words[1])) if len(words) == 2 else None,
    )


def limit(which: int) -> tuple[int | None, int | None]:
    """Return the soft and the hard limit of a resource (getrlimit(2)), each None for unlimited."""
    soft, hard = [None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(which)]
    return soft, hard


def memory() -> Memory:
    """Return the sizes of memory and swap, the memory limit of control groups, the usable cores and the load."""
    sizes = {}
    for line in read("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return Memory(
        total=sizes.get("MemTotal", 0),
        available=sizes.get("MemAvailable", 0),
        swap=sizes.get("SwapTotal", 0),
        swap_free=sizes.get("SwapFree", 0),
        limit=memory_limit(),
        cores=len(os.sched_getaffinity(0)),
        # The average over five minutes; the one over a minute fluctuates too much.
        load=os.getloadavg()[1],
    )


def memory_limit() -> int | None:
    """Return the smallest memory.max of this process's control groups (cgroup v2), in bytes, or None."""
    group = read("/proc/self/cgroup").rpartition("::")[2]
    found = []
    while group:
        text = read("/sys/fs/cgroup%s/memory.max" % group.rstrip("/"))
        if text.isdigit():
            found.append(int(text))
        if group == "/":
            break
        group = os.path.dirname(group)
    return min(found) if found else None


def disks(folders: Mapping[str, str]) -> dict[str, Disk]:
    """Return the facts of the file system of each folder. ``folders``: by purpose; ``~`` is expanded."""
    return {what: disk(os.path.expanduser(folder)) for what, folder in folders.items()}


def disk(folder: str) -> Disk:
    """Return the facts of a folder's file system; for a missing folder, of its nearest existing parent."""
    path = folder
    while not os.path.exists(path):
        path = os.path.dirname(path) or "/"
    status = os.statvfs(path)
    return Disk(
        path=folder,
        there=path == folder,
        free=status.f_bavail * status.f_frsize,
        size=status.f_blocks * status.f_frsize,
        inodes=status.f_favail if status.f_files else None,
        writable=writable(path),
        noexec=bool(status.f_flag & os.ST_NOEXEC),
        kind=kind_of_mount(path),
    )


def writable(path: str) -> bool:
    """Return whether a file can be created in a folder; access(2) would miss quotas and broken mounts."""
    # Another host that shares the disk may try the same at the same moment, with the same process id.
    probe = os.path.join(path, ".orch-probe-%s-%d-%d" % (paths.hostname(), os.getpid(), time.monotonic_ns()))
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
        return True
    except OSError:
        return False


def kind_of_mount(path: str) -> str:
    """Return the type of the file system that holds a path (proc_mounts(5))."""
    best, kind = "", "?"
    real = os.path.realpath(path)
    for line in read_all("/proc/self/mounts"):
        fields = line.split()
        where = fields[1].encode().decode("unicode_escape")
        inside = real == where or real.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best):
            best, kind = where, fields[2]
    return kind


def read_all(path: str) -> list[str]:
    """Return every line of a file; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []


def variables() -> Variables:
    """Return the variables of this session that change how training behaves; secrets do not have such names."""
    return Variables(drift={name: value for name, value in os.environ.items() if name.startswith(DRIFT)})


def interfaces() -> dict[str, Interface]:
    """Return the facts of each network interface, by name."""
    found = {}
    for _, name in socket.if_nameindex():
        base = "/sys/class/net/%s/" % name
        speed = read(base + "speed")
        mtu = read(base + "mtu")
        bridge = os.path.isdir(base + "bridge")
        found[name] = Interface(
            up=read(base + "operstate") in ("up", "unknown"),
            speed=int(speed) if speed.isdigit() else None,
            mtu=int(mtu) if mtu.isdigit() else None,
            kind="bridge" if bridge else "infiniband" if read(base + "type") == "32" else "ethernet",
        )
    return found


def listeners(ports: Sequence[int | None]) -> dict[str, str]:
    """Return the programs that listen on TCP ports of this host: ``{port: "pid 412 (command)"}``.

    A program that cannot be identified, such as another user's, is "an unknown process".
    """
    inodes = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read_all(table)[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == "0A" and port in ports:
                inodes["socket:[%s]" % fields[9]] = port
    found = {str(port): "an unknown process" for port in inodes.values()}
    for pid in [name for name in os.listdir("/proc") if name.isdigit()] if inodes else []:
        try:
            for descriptor in os.listdir("/proc/%s/fd" % pid):
                known = inodes.get(os.readlink("/proc/%s/fd/%s" % (pid, descriptor)))
                if known is not None:
                    command = read("/proc/%s/cmdline" % pid).replace("\0", " ")[:200]
                    found[str(known)] = "pid %s (%s)" % (pid, command)
        except OSError:
            continue
    return found


def torchruns() -> tuple[tuple[int, int, str], ...]:
    """Return the PyTorch launchers that orch did not start: ``((pid, user id, command), ...)``."""
    found = []
    for pid in [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]:
        command = read("/proc/%s/cmdline" % pid).replace("\0", " ")
        launcher = any(word in command for word in LAUNCHERS)
        if launcher and "ORCH_RUN_ID=" not in read("/proc/%s/environ" % pid):
            found.append((int(pid), os.stat("/proc/%s" % pid).st_uid, command[:200]))
    return tuple(found)


def home() -> Home:
    """Return the facts of the home folder."""
    folder = os.path.expanduser("~")
    return Home(path=folder, kind=kind_of_mount(folder), host=paths.hostname())
