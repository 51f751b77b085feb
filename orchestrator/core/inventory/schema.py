"""The keys of hosts files, each with a description, as a JSON Schema (draft 7) for editors.

A test compares the keys, and values of each, with what the parser accepts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.core.inventory.sections.container import ENGINE_CHOICES

# Names the schema itself, so that a copy of it can be recognised. Nothing is at this address.
SCHEMA_ID = "urn:orch:hosts-file"
# The name of the file beside a hosts file that editors read.
SCHEMA_FILE = "hosts.schema.json"

_Schema = Mapping[str, Any]

_TEXT: _Schema = {"type": "string", "minLength": 1}
_NAME: _Schema = {"type": "string", "minLength": 1}
_PORT: _Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_FLAG: _Schema = {"type": "boolean"}
_DIALLED: _Schema = {"type": "string", "pattern": r"^[^\s$;'\"`]+$"}
_WORD: _Schema = {"type": "string", "pattern": r"^[^\s-]\S*$"}
_NAMES: _Schema = {"type": "array", "items": {"type": "string"}}
_VARIABLES: _Schema = {
    "type": "object",
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
_PASSED: _Schema = {"type": "array", "items": {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]*[*?\w]*$"}}
_SIZE: _Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*[kmgtKMGT]?[iI]?[bB]?$"},
    ]
}
# The values of some keys may hold ``${VAR}``.
_EXPANDED = r"\$\{"
_IMAGE = rf"^[A-Za-z0-9./~_][A-Za-z0-9./~_:@+-]*$|{_EXPANDED}"
_HOST_KEY = r"^\s*(SHA256:[A-Za-z0-9+/]{43}|(ssh-|ecdsa-|sk-)[a-z0-9@.-]+\s+[A-Za-z0-9+/]+={0,2}(\s.*)?)$"


def _described(schema: _Schema, description: str, **more: Any) -> dict[str, Any]:
    return {"description": description, **schema, **more}


# The keys that only a host itself may have.
OWN_KEYS: Mapping[str, dict[str, Any]] = {
    "address": _described(
        _DIALLED, "The host name or address that SSH dials. By default the host's name in this file."
    ),
    "host_key": _described(
        {"type": "string", "pattern": f"{_HOST_KEY}|{_EXPANDED}"},
        "The host's pinned SSH key: 'type base64' or 'SHA256:...'.",
    ),
    "fabric_address": _described(
        {"type": "string", "pattern": f"^[0-9A-Fa-f:.]+(%\\S+)?$|{_EXPANDED}"},
        "The numeric address that other hosts should use for this host.",
    ),
}
# The keys of ``container``.
CONTAINER_KEYS: Mapping[str, dict[str, Any]] = {
    "image": _described(
        {"type": "string", "pattern": _IMAGE},
        "The image, as for podman pull or docker pull; a .tar file on this machine, which orch sends; or, for "
        "apptainer, a .sif file on the host.",
    ),
    "engine": _described(
        {"enum": list(ENGINE_CHOICES)},
        "The engine. auto: the first of podman, docker and apptainer that the host has.",
        default="auto",
    ),
    "options": _described(
        {"type": "array", "items": {"type": "string"}},
        "Further options for podman run, docker run or apptainer exec.",
    ),
    "mounts": _described(
        {"type": "array", "items": {"type": "string", "pattern": rf"^[/~]|{_EXPANDED}"}},
        "Folders of the host for the container: PATH, PATH:TARGET or PATH:TARGET:ro.",
    ),
}
# The keys that a host and ``defaults`` may have.
SHARED_KEYS: Mapping[str, dict[str, Any]] = {
    "user": _described(
        _DIALLED, "The user to log in as. By default ~/.ssh/config's, else your user name on this machine."
    ),
    "port": _described(_PORT, "The port of the SSH server. By default ~/.ssh/config's, else 22."),
    "identity_file": _described(_TEXT, "The private key for SSH. By default the agent's keys and ~/.ssh/id_*."),
    "jump": _described(
        {"anyOf": [_DIALLED, {"type": "array", "items": _DIALLED}]},
        "A jump host, [user@]host[:port], or a list of them, the outermost first.",
    ),
    "interface": _described(_WORD, "The network interface that ranks use. By default orch finds it."),
    "gpus": _described(
        {"type": "integer", "minimum": 0, "maximum": 1024}, "The number of GPUs. By default orch counts them."
    ),
    "nproc": _described(
        {"type": "integer", "minimum": 1, "maximum": 1024},
        "The number of processes. By default one for each GPU, and one on a host without GPUs.",
    ),
    "workdir": _described(
        _TEXT, "The folder on the host for code, environments, data and runs.", default="~/orch-work"
    ),
    "python": _described(_TEXT, "The interpreter for training. By default python3."),
    "environment": _described(
        _TEXT, "A file with packages that orch installs on the host, for a host whose env: holds variables."
    ),
    "env": {
        "description": "Environment variables of the ranks, or a file with packages that orch installs on the "
        "host: requirements.txt, pyproject.toml or uv.lock.",
        "anyOf": [_VARIABLES, _TEXT],
    },
    "container": {
        "description": "The container that the ranks run in: an image, or a mapping; none: no container.",
        "anyOf": [
            {"type": "string", "pattern": _IMAGE},
            {"type": ["object", "null"], "properties": CONTAINER_KEYS, "additionalProperties": False},
        ],
    },
    "pass_env": _described(
        _PASSED, "Names of variables of the control machine that the ranks get, or prefixes such as WANDB_*."
    ),
}

RENDEZVOUS_KEYS: Mapping[str, dict[str, Any]] = {
    "backend": _described({"enum": ["static", "c10d"]}, "How the torchruns find each other.", default="static"),
    "port": _described(_PORT, "The master port. By default a free one."),
    "interface": _described(_WORD, "The network interface that ranks use on every host; auto: orch finds it."),
    "id": _described(_NAME, "c10d: the rendezvous id. By default the run's."),
    "endpoint": _described(_DIALLED, "c10d: where the torchruns meet, host[:port]. By default at the master."),
}
OUTPUTS_KEYS: Mapping[str, dict[str, Any]] = {
    "max_size": _described(_SIZE, "How much to fetch from each host, such as 500 MB.", default="1 GiB"),
    "include": _described(_NAMES, "Patterns, as in .gitignore, of files to fetch."),
    "exclude": _described(_NAMES, "Patterns, as in .gitignore, of files not to fetch."),
    "max_log": _described(
        _SIZE, "The most disk space for each rank's stdout and stderr on a host.", default="1 GiB"
    ),
}
SLURM_KEYS: Mapping[str, dict[str, Any]] = {
    "login": _described(
        _TEXT, "Where orch submits jobs: user@login[:port], or local for jobs that this machine submits."
    ),
    "partition": _described(_WORD, "The partition. By default Slurm's."),
    "account": _described(_WORD, "The account that pays for jobs. By default Slurm's."),
    "time": _described(
        {"type": "string", "pattern": "^[0-9:-]+$"}, "The time limit, in quotes: MINUTES, H:MM:SS or DAYS-HOURS."
    ),
    "nodes": _described(
        {"type": "integer", "minimum": 1, "maximum": 10000}, "The number of nodes of a run.", default=1
    ),
    "gpus_per_node": _described(
        {"type": "integer", "minimum": 0, "maximum": 1024}, "The number of GPUs, and of processes, on each node."
    ),
    "options": _described(
        {"type": "array", "items": {"type": "string", "pattern": "^-"}},
        "Further options of sbatch, such as --exclusive, each one word.",
    ),
    "workdir": _described(
        _TEXT, "A folder on a disk that the login node and all nodes share.", default="~/orch-work"
    ),
}
DATA_KEYS: Mapping[str, dict[str, Any]] = {
    "path": _described(_TEXT, "A file or folder on this machine."),
    "to": _described(_TEXT, "The path on the hosts. By default <workdir>/data/<name>."),
}


def _mapping(keys: Mapping[str, dict[str, Any]], description: str | None = None, **more: Any) -> dict[str, Any]:
    about = {} if description is None else {"description": description}
    return {**about, "type": ["object", "null"], "properties": dict(keys), "additionalProperties": False, **more}


TOP_KEYS: Mapping[str, dict[str, Any]] = {
    "cluster": _described(_NAME, "The name of the cluster.", default="cluster"),
    "sandbox": _described(_FLAG, "The hosts belong to the embedded cluster, which orch starts on this machine."),
    "defaults": _mapping(SHARED_KEYS, "Keys of every host. A host's own value takes precedence."),
    "hosts": {
        "description": "The hosts in node_rank order: a name, or a range such as gpu[03-08], and its keys.",
        "anyOf": [
            {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": r"^[A-Za-z0-9\[][A-Za-z0-9._\-\[\],]*$"},
                "additionalProperties": _mapping({**OWN_KEYS, **SHARED_KEYS}),
            },
            {"type": "array", "minItems": 1, "items": {"type": "string"}},
        ],
    },
    "spares": _described(
        {**_NAMES, "type": ["array", "null"]}, "Names of hosts that replace lost hosts and otherwise take no part."
    ),
    "master": _described(
        {**_TEXT, "type": ["string", "null"]}, "The host with node_rank 0. By default the first that is no spare."
    ),
    "rendezvous": _mapping(RENDEZVOUS_KEYS, "Where and how the torchruns of a run meet."),
    "outputs": _mapping(OUTPUTS_KEYS, "Which files orch fetches from the hosts."),
    "data": {
        "description": "Files and folders that orch brings to the hosts.",
        "type": ["array", "null"],
        "items": {"anyOf": [_TEXT, _mapping(DATA_KEYS, type="object", required=["path"])]},
    },
    "pass_env": _described(
        _PASSED, "Names of variables of the control machine that all ranks get, or prefixes such as WANDB_*."
    ),
    "scheduler": _mapping(
        {"slurm": _mapping(SLURM_KEYS, "Submit each run as a job of Slurm.", type="object", required=["login"])},
        "In place of hosts: the batch system that gives a run its nodes.",
        type="object",
        required=["slurm"],
    ),
    "grace": _described(
        {"type": "number", "minimum": 0, "maximum": 604800},
        "How many seconds ranks have to end when they are stopped. By default 30, and 3 after a failure.",
    ),
}


def hosts_schema() -> dict[str, Any]:
    """Return the JSON Schema of hosts files."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": SCHEMA_ID,
        "title": "orch hosts file",
        "type": "object",
        "oneOf": [{"required": ["hosts"]}, {"required": ["scheduler"]}],
        "properties": dict(TOP_KEYS),
        "additionalProperties": False,
    }


def schema_text() -> str:
    """Return the JSON Schema as the text of a file."""
    return json.dumps(hosts_schema(), indent=2) + "\n"
