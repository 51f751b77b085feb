"""Archives of images on this machine: what they say, their pieces, and broken ones."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.errors import SyncError, UsageError
from orchestrator.local.images import archive_of, unpacked, with_archives
from tests.namespaces import images

TAG = "localhost/orch-test:1"


def test_an_archive_and_its_pieces(tmp_path: Path) -> None:
    images.write_archive(tmp_path / "image.tar", TAG)
    found = archive_of(tmp_path / "image.tar")
    assert (found.name, found.tags) == (TAG, (TAG,))
    assert found.config == f"{found.image_id}.json"
    pieces = unpacked(found, tmp_path / "cache")
    ((name, file),) = pieces.layers.items()
    assert name == f"{file}.tar" and (pieces.folder / file).is_file()
    assert json.loads(pieces.files["manifest.json"]) == [
        {"Config": found.config, "RepoTags": [TAG], "Layers": [name]}
    ]
    # A second time, the archive is not read.
    (tmp_path / "image.tar").unlink()
    assert unpacked(found, tmp_path / "cache") == pieces
    with pytest.raises(SyncError, match=r"cannot unpack .*image.tar: .*No such file"):
        unpacked(found, tmp_path / "other")
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]


def test_hosts_get_the_image_that_their_archive_holds(tmp_path: Path) -> None:
    images.write_archive(tmp_path / "image.tar", TAG)
    text = "hosts: {a: {container: ./image.tar}, b: {container: {image: x.sif, engine: apptainer}}, c: {}}"
    first, second, third = with_archives(parse_inventory(text).hosts, tmp_path)
    assert first.container is not None and second.container is not None and third.container is None
    assert (first.container.image, first.container.archive) == (TAG, str(tmp_path / "image.tar"))
    assert (second.container.image, second.container.archive) == ("x.sif", None)
    only_sif = parse_inventory("hosts: {a: {container: {image: ./image.tar, engine: apptainer}}}")
    with pytest.raises(UsageError, match=r"a: image: \./image\.tar: apptainer loads no archives"):
        with_archives(only_sif.hosts, tmp_path)


def written(path: Path, **files: str) -> None:
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "No such file or directory"),
        ({}, "is not an archive as docker save writes it"),
        ({"manifest.json": "["}, "is not an archive as docker save writes it"),
        ({"manifest.json": '[{"Config": "x.json", "Layers": []}]'}, "is not an archive as docker save writes it"),
        ({"manifest.json": "[{}, {}]"}, "holds 2 images: expected one"),
    ],
)
def test_a_broken_archive_is_one_line(tmp_path: Path, files: dict[str, str] | None, said: str) -> None:
    path = tmp_path / "image.tar"
    if files is not None:
        written(path, **files)
    with pytest.raises(UsageError, match=re.escape(said)) as refused:
        archive_of(path)
    assert "\n" not in str(refused.value) and "image.tar" in str(refused.value)
    path.write_bytes(b"no tar")
    with pytest.raises(UsageError, match="is not an archive as docker save writes it"):
        archive_of(path)
