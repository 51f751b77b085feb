"""Images for containers on namespace hosts: an empty file system, in which folders of the machine are mounted."""

import hashlib
import io
import json
import platform
import resource
import shutil
import sys
import tarfile
from pathlib import Path

from tests.namespaces.host import NodeHost
from tests.namespaces.switch import PATH

# Where podman keeps images and containers: each host's own folder, since the hosts share this machine's.
_STORAGE = "/run/podman"
STORAGE_CONF = f"{_STORAGE}/storage.conf"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def missing() -> str | None:
    """Return in one line why no podman can be used on this machine, or None if it can."""
    absent = [name for name in ("podman", "crun", "conmon") if shutil.which(name, path=PATH) is None]
    return f"the tests of containers need the Debian packages {' '.join(absent)}" if absent else None


def prepare(host: NodeHost) -> None:
    """Give podman on a host its own storage, asked for by ``CONTAINERS_STORAGE_CONF``, and one kind of cgroups."""
    # crun refuses a machine that has both kinds.
    host.run("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup")
    host.run("mkdir", "-p", _STORAGE)
    conf = f'[storage]\ndriver = "vfs"\ngraphroot = "{_STORAGE}/images"\nrunroot = "{_STORAGE}/run"\n'
    host.run("tee", STORAGE_CONF, input=conf)


def options() -> list[str]:
    """Return the options that podman needs on a namespace host: no cgroups, and limits that it may set."""
    files, processes = (resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    return ["--cgroups=disabled", f"--ulimit=nofile={files}:{files}", f"--ulimit=nproc={processes}:{processes}"]


def mounts(*more: Path) -> list[str]:
    """Return the folders that make an empty image a copy of this machine, with this test's interpreter."""
    packages = {Path(path) for path in sys.path if "site-packages" in path}
    folders = {Path(sys.prefix), Path(sys.base_prefix), *packages, *more}
    inside = [
        each for each in folders if not any(each != other and each.is_relative_to(other) for other in folders)
    ]
    system = [f"/{name}" for name in ("usr", "lib", "lib64", "bin", "etc") if Path("/", name).exists()]
    own = [str(each) for each in inside if not each.is_relative_to("/usr")]
    return [f"{path}:{path}:ro" for path in (*system, *sorted(own))]


def write_archive(path: Path, tag: str) -> None:
    """Write an archive as ``docker save`` does, of an image with one empty layer."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w"):
        pass
    layer = made.getvalue()
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": _MACHINES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for inner, data in (
            (name, config),
            (f"{digest}/layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(inner)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
