"""The configuration of Hugging Face Accelerate: one file, or a folder with a file for each machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.core.inventory.foreign.gathering import Gathering, whole_number
from orchestrator.core.inventory.foreign.hostfile import parse_hostfile
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.foreign.located import Tagged, entries, root_of

KIND = "Accelerate configuration"
_SUFFIXES = (".yaml", ".yml", ".json")
# Keys of machines and processes; they are carried over, or follow from the hosts.
_KNOWN = frozenset(
    (
        "machine_rank",
        "main_process_ip",
        "main_process_port",
        "num_machines",
        "num_processes",
        "rdzv_backend",
        "same_network",
        "compute_environment",
        "distributed_type",
        "gpu_ids",
        "use_cpu",
        "debug",
        "main_training_function",
        "deepspeed_config",
        "mixed_precision",
    )
)
_OFF = (None, "", "no", "NO", False, "null")


def is_accelerate(text: str) -> bool:
    """Return whether a file in a folder looks like a configuration of Accelerate."""
    return "num_machines" in text and ("machine_rank" in text or "distributed_type" in text)


def hostfile_of(text: str) -> str | None:
    """Return the path of the DeepSpeed hostfile that a configuration names."""
    value = _settings(Gathering(KIND, ""), text).get("deepspeed_hostfile", (None, 0))[0]
    return value if isinstance(value, str) and value else None


def parse_accelerate(texts: Mapping[str, str]) -> Imported:
    """Return the machines that a configuration names: those of its hostfile, or the main one alone.

    The other machines of several are only counted: Accelerate is started on each by hand. Raises InventoryError.
    """
    first = next(iter(texts))
    gathering = Gathering(KIND, first)
    configured = {name: text for name, text in texts.items() if name == first or name.endswith(_SUFFIXES)}
    found: dict[str, dict[str, tuple[Any, int]]] = {}
    for gathering.source, text in configured.items():
        settings = _settings(gathering, text)
        if {"machine_rank", "num_machines", "num_processes"} & set(settings):
            found[gathering.source] = settings
    gathering.source = first
    if not found and not gathering.problems:
        gathering.say(
            f"{first}: it is not a configuration of Accelerate: expected num_machines and main_process_ip"
        )
    if gathering.problems:
        raise gathering.error()
    _check_agreement(gathering, found)
    gathering.source, main = next(iter(found.items()))
    machines, each = _sizes(gathering, main)
    hostfile = next((name for name in texts if name not in configured), None)
    top = _rendezvous(gathering, main)
    _note_others(gathering, main)
    if hostfile is not None:
        return _with_hostfile(gathering, hostfile, texts[hostfile], top)
    _add_main(gathering, main, machines, each)
    defaults = _gpus(gathering, main)
    return gathering.imported(defaults=defaults, top=top)


def _gpus(gathering: Gathering, main: Mapping[str, tuple[Any, int]]) -> dict[str, Any]:
    """Return ``gpu_ids`` as a variable of all machines, as accelerate sets it."""
    value, line = main.get("gpu_ids", (None, 0))
    if value in (*_OFF, "all"):
        return {}
    ids = str(value).replace(" ", "")
    if not re.fullmatch(r"\d+(,\d+)*", ids):
        gathering.mistake(line, value, "gpu_ids: all, or numbers such as 0,1")
        return {}
    return {"env": {"CUDA_VISIBLE_DEVICES": ids}}


def _settings(gathering: Gathering, text: str) -> dict[str, tuple[Any, int]]:
    """Return the values by key, each with its line; those of ``deepspeed_config`` among them."""
    root = root_of(gathering, text)
    found: dict[str, tuple[Any, int]] = {}
    for entry in entries(gathering, root, "the file") if root is not None else ():
        found[entry.key] = (entry.value, entry.line)
        if entry.key == "deepspeed_config" and entry.value == "a mapping":
            inner = entries(gathering, entry.node, entry.key)
            found |= {each.key: (each.value, each.line) for each in inner if each.key == "deepspeed_hostfile"}
    return found


def _check_agreement(gathering: Gathering, found: Mapping[str, Mapping[str, tuple[Any, int]]]) -> None:
    """Record a mistake for files that name different main machines or counts, or the same rank."""
    ranks: dict[Any, str] = {}
    (first, main), *_ = found.items()
    for name, settings in found.items():
        gathering.source = name
        for key in ("main_process_ip", "main_process_port", "num_machines", "num_processes"):
            value, line = settings.get(key, (None, 0))
            wanted = main.get(key, (None, 0))[0]
            if value != wanted:
                gathering.mistake(line, value, f"{key} to be {wanted!r}, as in {first}")
        rank, line = settings.get("machine_rank", (0, 0))
        if rank in ranks:
            gathering.mistake(line, rank, f"a machine_rank that {ranks[rank]} does not have")
        ranks.setdefault(rank, name)
    if gathering.problems:
        raise gathering.error()


def _sizes(gathering: Gathering, main: Mapping[str, tuple[Any, int]]) -> tuple[int, int | None]:
    """Return the number of machines, and the processes of each if they divide evenly."""
    sizes = []
    for key in ("num_machines", "num_processes"):
        value, line = main.get(key, (1, 0))
        number = whole_number(value)
        if number is None or number < 1:
            gathering.mistake(line, value, f"{key}: a whole number from 1 on")
        sizes.append(number or 1)
    machines, processes = sizes
    if "num_processes" not in main:
        return machines, None
    if processes % machines:
        line = main["num_processes"][1]
        gathering.note(
            line, f"num_processes {processes} is not carried over: {machines} machines cannot share it evenly"
        )
        return machines, None
    return machines, processes // machines


def _rendezvous(gathering: Gathering, main: Mapping[str, tuple[Any, int]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    port, line = main.get("main_process_port", (None, 0))
    if port not in _OFF and gathering.fits(line, "port", port):
        found["port"] = whole_number(port)
    backend, line = main.get("rdzv_backend", ("static", 0))
    if backend == "c10d":
        found["backend"] = "c10d"
    elif backend not in ("static", *_OFF):
        gathering.note(line, f"rdzv_backend {backend} is not carried over: orch knows static and c10d")
    return {"rendezvous": found} if found else {}


def _note_others(gathering: Gathering, main: Mapping[str, tuple[Any, int]]) -> None:
    precision, line = main.get("mixed_precision", (None, 0))
    if precision not in _OFF:
        option = f"pass --launcher accelerate --mixed-precision {precision} to orch run"
        gathering.note(line, f"mixed_precision {precision} is not carried over: {option}")
    for key, (value, at) in main.items():
        if key not in _KNOWN and key != "deepspeed_hostfile" and value not in _OFF and value != "a mapping":
            shown = value.tag if isinstance(value, Tagged) else value
            gathering.note(at, f"{key} {shown} is not carried over")
        elif key.endswith(("_config", "_plugin")) and key not in _KNOWN and value == "a mapping":
            gathering.note(at, f"{key} is not carried over: it configures the training, which your script does")


def _with_hostfile(gathering: Gathering, name: str, text: str, top: Mapping[str, Any]) -> Imported:
    listed = parse_hostfile({name: text})
    notes = (*gathering.notes, *listed.notes)
    if gathering.problems:
        raise gathering.error()
    return Imported(KIND, listed.hosts, top=top, notes=notes)


def _add_main(gathering: Gathering, main: Mapping[str, tuple[Any, int]], machines: int, each: int | None) -> None:
    """Add the main machine, and count those that no file names."""
    address, line = main.get("main_process_ip", (None, 0))
    if address in _OFF:
        at = line or main.get("num_machines", (0, 0))[1]
        gathering.mistake(at, address, "main_process_ip: the address of the main machine")
        return
    gathering.add(line, str(address), {} if each is None else {"nproc": each})
    if machines > 1:
        gathering.incomplete = (
            f"num_machines is {machines}, and only the main one has an address ({address}): "
            f"{machines - 1} more address{'es are' if machines > 2 else ' is'} missing"
        )
