"""The scripts of a plan as files on this machine."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from orchestrator.core.launch.script.by_hand import STEM
from orchestrator.errors import OrchError, UsageError


@contextmanager
def script_folder(folder: Path) -> Iterator[Path]:
    """Make the folder for a plan's scripts before the plan; remove a new one if the plan fails.

    Scripts name the tree with their code. A new folder below the project keeps its files out of that tree, as an
    empty folder, so it has to be there when the tree is hashed. Raises UsageError if it cannot be made.
    """
    made = not folder.exists()
    ignore = folder / ".gitignore"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if made:
            ignore.write_text("*\n")
    except OSError as error:
        raise _cannot(folder, error) from None
    try:
        yield folder
    except OrchError:
        if made:
            ignore.unlink(missing_ok=True)
            folder.rmdir()
        raise


def write_scripts(folder: Path, scripts: Mapping[str, str]) -> list[Path]:
    """Write each script to ``folder``, in place of an earlier one of its name, and return the files.

    Raises UsageError if they cannot be written, or if the folder holds a further node's script of an earlier plan,
    which somebody would start, too.
    """
    suffixes = {Path(name).suffix for name in scripts}
    others = [each for each in folder.glob(f"{STEM}*") if each.suffix in suffixes and each.name not in scripts]
    if others:
        raise UsageError(
            f"--output {folder}: {min(others).name} is there, of a plan with more nodes",
            remedy="remove it, or choose another folder",
        )
    try:
        return [_write(folder / name, text) for name, text in scripts.items()]
    except OSError as error:
        raise _cannot(folder, error) from None


def _write(path: Path, text: str) -> Path:
    data = text.encode("utf-8", "surrogateescape")
    if path.suffix == ".ps1":
        # Without this mark, Windows PowerShell 5 reads a script in the machine's own encoding.
        data = codecs.BOM_UTF8 + data
    path.write_bytes(data)
    path.chmod(0o755)
    return path


def _cannot(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"--output {folder}: cannot write {error.filename or 'there'}: {error.strerror}",
        remedy="choose a folder that you may write to",
    )
