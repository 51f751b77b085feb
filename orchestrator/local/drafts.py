"""New hosts files: checked as they will be read, and written as a whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from orchestrator.core.inventory.draft.compose import Draft, compose
from orchestrator.core.inventory.foreign.formats import OWN
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.hosts import Inventory
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.schema import SCHEMA_FILE, SCHEMA_ID, schema_text
from orchestrator.errors import UsageError
from orchestrator.local.foreign import find_hosts, read_foreign
from orchestrator.local.hosts_file import read_with_document


def parsed_draft(draft: Draft, source: str) -> Inventory:
    """Return the inventory that a new hosts file would give. Raises InventoryError, which names ``source``."""
    return parse_inventory(compose(draft), source=source, environ=os.environ)


def read_hosts(where: str) -> Imported:
    """Return the hosts of another tool's list, or of a hosts file whose hosts are to be tried again.

    Raises UsageError and InventoryError.
    """
    if find_hosts(where).kind != OWN:
        return read_foreign(where)
    _, draft = own_hosts(Path(where))
    return Imported("hosts file", draft.hosts, draft.defaults, draft.top)


def own_hosts(path: Path) -> tuple[str, Draft]:
    """Return the text of a hosts file, and what it says. Raises UsageError and InventoryError."""
    found = find_hosts(str(path))
    if found.kind != OWN:
        raise UsageError(
            f"{path} is a list of another tool ({found.kind})", remedy=f"orch init --from {path} -o lab.yaml"
        )
    inventory, document = read_with_document(path)
    if inventory.sandbox:
        raise UsageError(f"{path} describes the embedded cluster, whose hosts need no trial")
    return next(iter(found.texts.values())), Draft.of(document)


def packages_beside(hosts_file: Path, file: str) -> str:
    """Return the path of a file with packages as a hosts file names it: from its own folder, unless absolute.

    ``file``: its path from the current folder. Raises UsageError if there is none.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        expected = "a file with packages, such as requirements.txt"
        raise UsageError(f"{file}: there is no such file: expected {expected}")
    return file if Path(file) != path or path.is_absolute() else os.path.relpath(path, hosts_file.resolve().parent)


def refuse_existing(path: Path) -> None:
    """Raise UsageError if there is a file at ``path``, or no folder for it."""
    if os.path.lexists(path):
        raise UsageError(
            f"{path} exists",
            remedy="pass --add to add hosts to it, --force to replace it, or --output FILE to write another",
        )
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")


def write_new(path: Path, text: str, *, replace: bool) -> None:
    """Write a file as a whole or not at all. Raises UsageError if it cannot be written, or exists and may not."""
    real = path.resolve() if replace else path
    new = real.with_name(f".{real.name}-{secrets.token_hex(4)}")
    try:
        with new.open("xb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        # A link fails where a file exists; a rename would replace it.
        new.replace(real) if replace else real.hardlink_to(new)
    except FileExistsError:
        refuse_existing(path)
        raise UsageError(f"{path} exists") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)


def may_write_schema(beside: Path) -> bool:
    """Return whether the JSON Schema may be written beside a hosts file: no other file has its name."""
    file = beside.with_name(SCHEMA_FILE)
    try:
        return not os.path.lexists(file) or json.loads(file.read_text(encoding="utf-8")).get("$id") == SCHEMA_ID
    except (OSError, ValueError, AttributeError):
        return False


def write_schema(beside: Path) -> None:
    """Write the JSON Schema beside a hosts file, for editors. Raises UsageError."""
    write_new(beside.with_name(SCHEMA_FILE), schema_text(), replace=True)
