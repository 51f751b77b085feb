"""Data sets that are given by name and downloaded by the control machine, with the standard library alone."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SyncError


@dataclass(frozen=True)
class DataSet:
    """A data set, laid out as torchvision does: ``folder``, and the SHA-256 of each file below it.

    Each of ``sources`` has the files packed, below the same names with ``.gz`` but without their folder.
    ``download`` and ``size``: bytes of all files, packed and unpacked.
    """

    folder: str
    files: Mapping[str, str]
    sources: tuple[str, ...]
    download: int
    size: int

    @property
    def alternatives(self) -> tuple[tuple[str, ...], ...]:
        """For each file the paths below ``folder`` of which a script needs one."""
        return tuple((path, f"{path}.gz") for path in self.files)


KNOWN = {
    "mnist": DataSet(
        "MNIST",
        {
            "raw/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "raw/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "raw/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "raw/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        # As torchvision.datasets.MNIST.mirrors.
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        11_594_722,
        54_950_048,
    )
}
# The variable that names another place of data sets, as torchvision lays them out: a folder or a URL.
PLACE = "ORCH_DATASETS"
# Suffix of the file that marks a data set as complete.
COMPLETE = ".complete"
# How long a server may be silent, in seconds.
TIMEOUT = 20.0
FAILURES = (OSError, ValueError, zlib.error, http.client.HTTPException)


def cached(name: str, cache: Path) -> Path | None:
    """Return the folder of a known data set if it has been downloaded."""
    folder = cache / "datasets" / KNOWN[name].folder
    return folder if folder.with_name(folder.name + COMPLETE).exists() else None


def fetched(name: str, cache: Path) -> Path:
    """Return the folder of a known data set, downloaded if it is missing. Raises SyncError."""
    folder = cached(name, cache)
    if folder is not None:
        return folder
    known = KNOWN[name]
    folder = cache / "datasets" / known.folder
    place = os.environ.get(PLACE)
    for path, sha in known.files.items():
        try:
            _fetch(_urls(known, path, place), sha, folder / path)
        except FAILURES as error:
            # A URLError wraps the error that tells what happened.
            reason = error.reason if type(error) is urllib.error.URLError else error
            raise SyncError(
                f"{name} could not be downloaded to this machine: {path}.gz: {reason}",
                remedy=f"set {PLACE} to a folder or URL that has {known.folder}/{path}.gz and the others, or get "
                f"{known.folder} here by other means and type orch sync --data FOLDER/{known.folder}",
            ) from None
    folder.with_name(folder.name + COMPLETE).touch()
    return folder


def _urls(known: DataSet, path: str, place: str | None) -> list[str]:
    """Return where to find a packed file: only in the place that the user names, if any."""
    if place is None:
        return [source + path.rpartition("/")[2] + ".gz" for source in known.sources]
    base = place if "://" in place else Path(place).expanduser().absolute().as_uri()
    return [f"{base.rstrip('/')}/{known.folder}/{path}.gz"]


def _fetch(urls: list[str], sha: str, target: Path) -> None:
    """Unpack the first of the URLs that answers to ``target``. Raises the error of the last one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                data = zlib.decompress(answer.read(), wbits=zlib.MAX_WBITS | 16)
            if hashlib.sha256(data).hexdigest() != sha:
                raise ValueError(f"{url} has other contents than expected (SHA-256 {sha[:12]}…)")
        except FAILURES:
            if url == urls[-1]:
                raise
            continue
        partial.write_bytes(data)
        partial.replace(target)
        return
