"""Write the files that make a folder a host: its identity, sshd configuration and table of mounts."""

import ctypes
import re
import secrets
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

NODE_HOME = "/run/node-home"
"""Root's home folder as a host sees it: the same path on all hosts, a different folder behind it on each."""

# Each host has these folders to itself. They may hold the cluster's folder or an interpreter, so each is prepared
# aside, with the paths that must stay visible bound into it, and mounted in place last.
_COVERED = {"/run": "mode=755", "/tmp": "mode=1777", "/dev/shm": "mode=1777"}

_SSHD = {
    "Port": "22",
    "HostKey": "/etc/ssh/ssh_host_ed25519_key",
    "AuthorizedKeysFile": "/etc/ssh/authorized_keys",
    "PermitRootLogin": "prohibit-password",
    "AuthenticationMethods": "publickey",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "StrictModes": "no",
    "UsePAM": "no",
    "UseDNS": "no",
    "PidFile": "none",
    "PrintMotd": "no",
    "LogLevel": "INFO",
    "MaxStartups": "200:30:400",
    "MaxSessions": "10",
    "Subsystem": "sftp internal-sftp",
}

# What changes where root logs in with a password, and keys belong where users keep them.
PASSWORD_SSHD = {
    "AuthorizedKeysFile": ".ssh/authorized_keys",
    "PermitRootLogin": "yes",
    "AuthenticationMethods": "any",
    "PasswordAuthentication": "yes",
    "StrictModes": "yes",
}


def sshd_config(address: str, options: Mapping[str, str]) -> str:
    """Return the text of ``sshd_config``. ``options`` override the defaults; upper and lower case are the same."""
    values = {**_SSHD, "ListenAddress": address}
    if _sshd_has_penalties():
        # From 9.8 on, sshd locks an address out after failed logins, and all tests connect from one address.
        values["PerSourcePenalties"] = "no"
    by_folded = {name.lower(): name for name in values}
    for name, value in options.items():
        values.pop(by_folded.get(name.lower(), name), None)
        values[name] = value
    return "".join(f"{name} {value}\n" for name, value in values.items())


def _sshd_has_penalties() -> bool:
    banner = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr
    version = re.match(r"OpenSSH_(\d+)\.(\d+)", banner)
    return version is not None and (int(version[1]), int(version[2])) >= (9, 8)


def passwd(machine: str) -> str:
    """Return this machine's ``/etc/passwd``, given as text, with root's home set to ``NODE_HOME``."""
    lines = [line.split(":") for line in machine.splitlines() if line.count(":") == 6]
    return "".join(
        ":".join([*line[:5], NODE_HOME, line[6]] if line[0] == "root" else line) + "\n" for line in lines
    )


def shadow(password: str | None) -> str:
    """Return a host's ``/etc/shadow``: root's password as a hash, or none that could be entered."""
    if password is None:
        return "root:*:::::::\n"
    # The library that sshd itself checks passwords with; Python has no such function from 3.13 on.
    # It answers in one static buffer, and hosts are made by several threads: PyDLL keeps the others out meanwhile.
    crypt = ctypes.PyDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    hashed: bytes = crypt(password.encode(), f"$6$rounds=1000${secrets.token_hex(8)}".encode())
    return f"root:{hashed.decode('ascii')}:20000::::::\n"


def fstab(node: Path, home: Path, covers: Iterable[Path]) -> str:
    """Return the mounts of one host, in order.

    ``home`` is the folder behind root's home. ``covers`` are paths that stay visible although a folder above them
    is hidden.
    """
    lines: list[str] = []

    def mount(source: str | Path, target: str | Path, kind: str, options: str) -> None:
        lines.append(f"{_escape(source)} {_escape(target)} {kind} {options} 0 0\n")

    for name in ("hosts", "hostname", "passwd", "shadow", "machine-id", "ssh"):
        if Path("/etc", name).exists():
            mount(node / "etc" / name, f"/etc/{name}", "none", "bind")
    mount(node / "boot_id", "/proc/sys/kernel/random/boot_id", "none", "bind")
    stages = {covered: node / "stage" / covered.strip("/").replace("/", "-") for covered in _COVERED}
    for covered, stage in stages.items():
        mount(f"node{covered.replace('/', '-')}", stage, "tmpfs", f"{_COVERED[covered]},X-mount.mkdir")
    mount(home, f"{stages['/run']}/{Path(NODE_HOME).name}", "none", "bind,X-mount.mkdir")
    mount("node-sshd", f"{stages['/run']}/sshd", "tmpfs", "size=64k,mode=755,X-mount.mkdir")
    for path in covers:
        for covered, stage in stages.items():
            if path.is_relative_to(covered):
                mount(path, stage / path.relative_to(covered), "none", "rbind,X-mount.mkdir")
    cgroups = Path("/sys/fs/cgroup")
    if cgroups.is_mount():
        mount(cgroups, node / "stage" / "cgroup", "none", "rbind,X-mount.mkdir")
    # sysfs shows the network interfaces of the namespace it was mounted in.
    mount("node-sys", "/sys", "sysfs", "defaults")
    if cgroups.is_mount():
        mount(node / "stage" / "cgroup", cgroups, "none", "rbind")
    # The mount that hides `node`, and with it the other stages, comes last.
    for covered in sorted(stages, key=node.is_relative_to):
        mount(stages[covered], covered, "none", "rbind")
    return "".join(lines)


def _escape(path: str | Path) -> str:
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in str(path))


def write_node(
    node: Path,
    name: str,
    address: str,
    *,
    home: Path,
    hosts: str,
    authorized_keys: str,
    password: str | None,
    sshd: str,
    visible: Iterable[Path],
) -> str:
    """Fill the folder ``node`` and return the public host key (type and key, no comment).

    ``password`` is root's; None if root has none.
    """
    ssh = node / "etc" / "ssh"
    ssh.mkdir(parents=True, exist_ok=True)
    (node / "stage").mkdir()
    # Hosts may share a home, so it may exist.
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    etc = {
        "hosts": f"127.0.0.1 localhost\n{address} {name}\n{hosts}",
        "hostname": f"{name}\n",
        "passwd": passwd(Path("/etc/passwd").read_text()),
        "shadow": shadow(password),
        "machine-id": f"{uuid.uuid4().hex}\n",
        "ssh/sshd_config": sshd,
        "ssh/authorized_keys": authorized_keys,
    }
    for path, text in etc.items():
        (node / "etc" / path).write_text(text)
    (node / "etc" / "shadow").chmod(0o600)
    (node / "fstab").write_text(fstab(node, home, visible))
    return keygen(ssh / "ssh_host_ed25519_key", name)


def write_boot(node: Path, address: str, *, port: str, bridge: str, neighbours: Iterable[str]) -> None:
    """Write the boot id, which differs at every power-on, and the ``ip`` commands that connect the host.

    ``neighbours`` are addresses whose link addresses the host is given, so that it need not ask for them.
    """
    (node / "boot_id").write_text(f"{uuid.uuid4()}\n")
    (node / "port.ip").write_text(
        f"link add name {port} type veth peer name eth0 address {_mac(address)} netns /proc/1/ns/net\n"
        f"link set {port} master {bridge} up\n"
    )
    orders = ["link set lo up", f"address add {address}/16 brd + dev eth0", "link set eth0 up"]
    orders += [f"neigh add {other} lladdr {_mac(other)} dev eth0 nud permanent" for other in neighbours]
    (node / "eth0.ip").write_text("\n".join(orders) + "\n")


def _mac(address: str) -> str:
    return "02:00:" + ":".join(f"{int(number):02x}" for number in address.split("."))


def keygen(path: Path, comment: str) -> str:
    """Make an ed25519 key pair and return the public half (type and key, no comment)."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])
