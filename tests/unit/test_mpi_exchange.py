"""How daemons get their command lines from the first node, and the variables that a rank gets from MPI's."""

from __future__ import annotations

import json
import secrets
import socket
import threading
from pathlib import Path

import pytest

from orchestrator.node.mpi import exchange, part, rank
from orchestrator.protocol.launch.mpi import MpiPart
from tests.forked import free_port

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
KEY = secrets.token_hex(16)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> part.Place:
    """The first node's part."""
    (tmp_path / "mpi").mkdir()
    return of_host(HOSTS[0], free_port(), tmp_path, monkeypatch)


def of_host(
    host: str, port: int, folder: Path, monkeypatch: pytest.MonkeyPatch, key: str = KEY, argv: tuple[str, ...] = ()
) -> part.Place:
    known = MpiPart(host=host, hosts=HOSTS, port=port, key=key, argv=argv)
    told = {"part": known.to_wire(), "folder": str(folder), "cwd": "/"}
    monkeypatch.setenv(part.VARIABLE, json.dumps(told))
    return part.Place()


def test_each_daemon_gets_its_own_command_line_and_then_the_port_is_free(
    place: part.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, host in enumerate(HOSTS[1:], 1):
        Path(place.command_file(host)).write_text(f"daemon {number} 'of the run'")
    exchange.Counter(place)
    port = place.part.port
    others = [of_host(host, port, tmp_path, monkeypatch) for host in HOSTS[1:]]
    assert [exchange.command_for(each) for each in others] == ["daemon 1 'of the run'", "daemon 2 'of the run'"]
    with socket.socket() as rank0:
        rank0.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rank0.bind((HOSTS[0], port))
        rank0.listen()


def test_without_the_key_nobody_gets_a_command_line_or_gives_one(
    place: part.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(place.command_file(HOSTS[1])).write_text("secret daemon")
    counter = exchange.Counter(place)
    monkeypatch.setattr(exchange, "PATIENCE", 0.5)
    stranger = of_host(HOSTS[1], place.part.port, tmp_path, monkeypatch, key="guessed")
    with pytest.raises(exchange.NoCommand, match=r"mpirun on 127\.0\.0\.1 asked for no daemon here"):
        exchange.command_for(stranger)
    assert counter.waiting == set(HOSTS[1:])
    # An answer that was heard in another exchange proves nothing in this one.
    ours, theirs = socket.socketpair()
    replay = {"command": "rm -rf", "mac": exchange.mac(place, "lead", "another nonce", "rm -rf")}

    def impostor() -> None:
        exchange.send(theirs, {"nonce": "n"})
        exchange.receive(theirs)
        exchange.send(theirs, replay)

    with ours, theirs:
        threading.Thread(target=impostor).start()
        with pytest.raises(ValueError, match="an answer without the attempt's key"):
            exchange._asked(place, ours, 0.0)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {
                "OMPI_COMM_WORLD_RANK": "5",
                "OMPI_COMM_WORLD_SIZE": "6",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "NODE_RANK": "2",
                "NNODES": "3",
            },
            ("5", "6", "1", "2", "2", "3", "1"),
        ),
        (
            {"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
            ("0", "1", "0", "1", "0", "1", None),
        ),
        (
            {
                "PMI_RANK": "3",
                "PMI_SIZE": "4",
                "MPI_LOCALRANKID": "1",
                "NPROC_PER_NODE": "2",
                "OMP_NUM_THREADS": "4",
            },
            ("3", "4", "1", "2", "0", "1", None),
        ),
    ],
)
def test_a_rank_gets_torchruns_variables(environ: dict[str, str], expected: tuple[str | None, ...]) -> None:
    found = rank.variables(environ)
    assert found is not None
    names = [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "OMP_NUM_THREADS",
    ]
    assert tuple(found.get(name) for name in names) == expected


def test_a_process_that_no_mpirun_has_started_has_no_rank() -> None:
    assert rank.variables({"PATH": "/bin"}) is None
