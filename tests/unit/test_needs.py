"""What a script declares to need, what excuses it, and which nodes lack data."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.core.inventory.hosts import DataSource, Host, Inventory, Outputs, Rendezvous
from orchestrator.core.launch.plan import RunSpec, Workload
from orchestrator.core.transfer.local_tree import hash_file, hash_tree
from orchestrator.core.transfer.needs import Need, needs_of, options_in
from orchestrator.errors import HostErrors, OrchError, PreflightError, SyncError, UsageError
from orchestrator.local import datasets
from orchestrator.node.store import receipts
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery import run_data
from orchestrator.operations.delivery.run_data import RunData, data_of_run, deliver_data, lacking
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.source import Source, bundled
from orchestrator.protocol.facts import DataCheck
from orchestrator.protocol.tree import tree_id
from orchestrator.ui.quiet import QuietDisplay
from tests.unit.launch.plans import facts

TRAIN = Need("mnist", folder="--data-dir", unless=("--dataset=digits", "--download"))


def test_the_bundled_workload_declares_mnist() -> None:
    assert needs_of(bundled()["train"].read_text(), "train.py") == (TRAIN,)


@pytest.mark.parametrize(
    ("args", "excused"),
    [
        ((), False),
        (("--dataset", "digits"), True),
        (("--dataset=digits", "--epochs", "2"), True),
        (("--dataset", "mnist"), False),
        (("--dataset", "digits", "--dataset", "mnist"), False),
        (("--download",), True),
        (("--epochs", "--download"), True),
        (("--", "--download"), False),
        (("--down_load",), False),
    ],
)
def test_arguments_that_excuse_a_need(args: tuple[str, ...], excused: bool) -> None:
    assert TRAIN.excused(args) is excused


def test_underscores_and_spaces_are_other_spellings() -> None:
    (need,) = needs_of('NEEDS_DATA: list = [{"data": "x", "unless": ["--no_data", "--set small"]}]', "s.py")
    assert need.excused(["--no-data"]) and need.excused(["--set=small"]) and not need.excused(["--set", "big"])
    assert options_in(["--a_b", "1", "word", "--c=x=y", "-d", "--e"]) == {
        "--a-b": "1",
        "--c": "x=y",
        "--e": None,
    }
    file = Need(file="--csv")
    assert file.excused([]) and not file.excused(["--csv", "x.csv"])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('"mnist"', "NEEDS_DATA: 'mnist': expected a list such as"),
        ("load()", "NEEDS_DATA: 'load()': expected a list of literal values"),
        ('["mnist"]', "NEEDS_DATA[0]: 'mnist': expected a mapping"),
        ('[{"dat": "mnist"}]', "NEEDS_DATA[0].dat: unknown key → did you mean data?"),
        ('[{"data": "mnist"}, {"data": 3}]', "NEEDS_DATA[1].data: 3: expected a string"),
        ('[{"data": "x", "folder": "dir"}]', "NEEDS_DATA[0].folder: 'dir': expected the name of an option"),
        ('[{"data": "x", "unless": "--no"}]', "NEEDS_DATA[0].unless: '--no': expected a list of options"),
        ('[{"data": "x", "file": "--csv"}]', "expected either data or file"),
        ("[{}]", "expected either data or file"),
    ],
)
def test_a_wrong_declaration_is_one_line(value: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        needs_of(f'"""Doc."""\nNEEDS_DATA = {value}\n', "s.py")
    assert str(caught.value).startswith("s.py:2: NEEDS_DATA") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scripts_without_a_declaration_need_nothing() -> None:
    assert needs_of("x = 1", "s.py") == needs_of("def NEEDS_DATA(:", "s.py") == ()
    assert needs_of("def f():\n    NEEDS_DATA = [1]\n", "s.py") == ()


class FakeNode:
    """As much of a Node as decisions look at."""

    def __init__(self, name: str) -> None:
        self.name = name


NODES = [FakeNode("a"), FakeNode("b")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a script, its data, and a file that it may be given."""
    (tmp_path / ".orchignore").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "one").write_text("one")
    (tmp_path / "x.csv").write_text("a,b")
    (tmp_path / "s.py").write_text('NEEDS_DATA = [{"data": "set", "folder": "--at"}, {"file": "--csv"}]')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def opened(place: Path, *data: DataSource) -> OpenCluster:
    hosts = tuple(Host(node.name, node.name) for node in NODES)
    inventory = Inventory("c", hosts, (), Rendezvous(), Outputs(), False, "hosts.yaml", data)
    return OpenCluster(inventory, hosts, (), 4, beside=place)


def options(place: Path, *args: str, script: str = "s.py", **more: object) -> RunOptions:
    workload = Workload(script.removesuffix(".py"), "script", script)
    source = Source(workload, place if (place / script).exists() else bundled()["train"].parent)
    return replace(RunOptions(RunSpec(workload, args), source, place), **more)


def answers(**flags: tuple[bool, ...]) -> dict[str, object]:
    return {name: replace(facts(), node=name, data=each) for name, each in flags.items()}


def refused(place: Path, data: tuple[RunData, ...], asked: RunOptions, **flags: tuple[bool, ...]) -> OrchError:
    """Return the error of a delivery in which nobody agrees to anything, and in which nothing may be sent."""
    with pytest.raises(OrchError) as caught:
        deliver_data(opened(place), data, NODES, answers(**flags), asked, asked.agree, QuietDisplay())
    assert isinstance(caught.value, HostErrors) or "\n" not in str(caught.value)
    return caught.value


def test_the_data_of_a_run_and_how_they_are_looked_for(place: Path) -> None:
    asked = options(place, "--csv", "x.csv")
    data = data_of_run(
        opened(place, DataSource("set", "/d/set"), DataSource("mnist", None)), asked, QuietDisplay()
    )
    assert [(each.name, each.agreed, each.source.to) for each in data] == [
        ("set", True, "/d/set"),
        ("mnist", True, None),
        ("set", False, None),
        ("x.csv", True, None),
    ]
    whole = hash_tree(place / "set").tree_id
    given, known, own, file = (each.checks("~/w") for each in data)
    assert given == (DataCheck(workdir="~/w", root="/d/set", tree=whole),)
    assert known[0].root == "~/w/data/MNIST" and known[0].files[0] == (
        "raw/train-images-idx3-ubyte",
        "raw/train-images-idx3-ubyte.gz",
    )
    assert own == (DataCheck(workdir="~/w", root="~/w/data/set", tree=whole),)
    # A file that lies on the nodes under the path that was given is as good.
    assert file[0].root == "~/w/data" and file[0].tree == tree_id([hash_file(place / "x.csv").entries[0].row])
    assert file[1] == DataCheck(workdir="~/w", root=str(place), files=(("x.csv",),))
    assert data_of_run(opened(place), options(place, "--at", "here"), QuietDisplay()) == ()
    (elsewhere,) = data_of_run(opened(place), options(place, "--at=/scratch"), QuietDisplay())
    assert elsewhere.source.to == "/scratch/set"
    # A file that is only on the nodes is the script's affair.
    assert len(data_of_run(opened(place), options(place, "--csv", "there.csv"), QuietDisplay())) == 1
    assert data_of_run(opened(place, DataSource("set", None)), options(place, data=False), QuietDisplay()) == ()
    # The same data from both are sent once.
    train = options(place, script="train.py")
    assert len(data_of_run(opened(place, DataSource("mnist", None)), train, QuietDisplay())) == 1


def test_nodes_that_lack_something_are_told_by_their_answers(place: Path) -> None:
    data = data_of_run(opened(place), options(place, "--csv", "x.csv"), QuietDisplay())
    both = answers(a=(True, False, True), b=(True, True, False))
    assert lacking(data, NODES, both) == []
    some = answers(a=(False, False, True), b=(True, False, False))
    assert [(at, [node.name for node in nodes]) for at, nodes in lacking(data, NODES, some)] == [
        (0, ["a"]),
        (1, ["b"]),
    ]
    # A node that answers too little has nothing.
    assert [at for at, _ in lacking(data, NODES, answers(a=(), b=(True, True, True)))] == [0, 1]


def test_who_is_not_asked_is_told_what_to_type(place: Path) -> None:
    asked = options(place, script="train.py")
    data = data_of_run(opened(place), asked, QuietDisplay())
    error = refused(place, data, asked, a=(True,), b=(False,))
    assert isinstance(error, PreflightError)
    assert str(error) == (
        "train needs mnist, which b lacks → pass --yes to download 11.6 MB to this machine and pass 55.0 MB on from "
        "host to host, or run orch sync --data mnist before, or give train --dataset digits or --download"
    )
    questions = []
    error = refused(
        place, data, replace(asked, agree=lambda each: bool(questions.append(each))), a=(False,), b=(False,)
    )
    assert isinstance(error, PreflightError) and questions == [
        "train needs mnist, which a, b lack. Download 11.6 MB to this machine and pass 55.0 MB on from host to host?"
    ]
    error = refused(place, data, replace(asked, sync=False, agree=lambda _: True), a=(True,), b=(False,))
    assert isinstance(error, HostErrors) and isinstance(error.errors[0], SyncError)
    assert str(error.errors[0]) == "b: lacks mnist → run orch sync --data mnist, or leave out --no-sync"
    own = data_of_run(opened(place), options(place, "--at=/x"), QuietDisplay())
    assert "orch sync --data set:/x/set before" in str(refused(place, own, options(place), a=(False,), b=(False,)))
    (place / "set" / "one").unlink()
    (place / "set").rmdir()
    gone = data_of_run(opened(place), options(place), QuietDisplay())
    said = str(refused(place, gone, options(place), a=(True,), b=(False,)))
    assert said == f"s: NEEDS_DATA: {place}/set: no such file or folder on this machine, and b lacks it"
    # Nothing has to be here if every node has it.
    assert deliver_data(
        opened(place), gone, NODES, answers(a=(True,), b=(True,)), options(place), None, QuietDisplay()
    )


def test_data_outside_the_project_are_asked_for_once(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path_factory.mktemp("outside") / "secret"
    secret.write_text("s")
    cluster, asked = opened(place, DataSource(str(secret), None)), options(place, data=True)
    (place / "s.py").write_text("")
    data = data_of_run(cluster, asked, QuietDisplay())
    sent: list[str] = []
    monkeypatch.setattr(run_data, "send_data", lambda *each, label: sent.append(label))
    some = answers(a=(True,), b=(False,))
    with pytest.raises(UsageError, match="is outside the project folder, and not sent without consent"):
        deliver_data(cluster, data, NODES, some, asked, None, QuietDisplay())
    agreed = deliver_data(cluster, data, NODES, some, asked, lambda _: True, QuietDisplay())
    assert agreed[0].agreed and sent == ["secret"]
    deliver_data(cluster, data, NODES, some, asked, None, QuietDisplay())
    assert sent == ["secret"] * 2


def test_a_receipt_tells_whether_data_are_as_they_arrived(tmp_path: Path) -> None:
    workdir, root = str(tmp_path / "w"), tmp_path / "w" / "data" / "set"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "file").write_text("text")
    (root / "link").symlink_to("deep")
    (root / "empty").mkdir()
    rows = [entry.row for entry in hash_tree(root).entries]
    check = DataCheck(workdir=workdir, root=str(root), tree=tree_id(rows))
    assert not receipts.shows(check)
    receipts.write(workdir, str(root), rows)
    assert receipts.shows(check) and not receipts.shows(check.replace(root=str(root / "deep")))
    assert not receipts.shows(check.replace(tree="0" * 32))
    (root / "deep" / "file").write_text("tex")
    assert not receipts.shows(check)
    receipts.write(workdir, str(root), rows[:1])
    kept = list((tmp_path / "w" / ".orch" / "data").iterdir())
    # That of the version before is gone.
    assert len(kept) == 1
    for damage in ("", "[[1]]", "nonsense"):
        for each in kept:
            each.write_text(damage)
        assert not receipts.shows(check)


def test_files_are_looked_for_in_groups(tmp_path: Path) -> None:
    check = DataCheck(workdir="~", root=str(tmp_path), files=(("a", "a.gz"), ("b",)))
    (tmp_path / "a.gz").touch()
    assert not receipts.shows(check)
    (tmp_path / "b").touch()
    assert receipts.shows(check) and not receipts.shows(check.replace(root=str(tmp_path / "none"), files=()))


TINY = {"raw/one": b"one" * 9, "raw/two": b"two"}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A known data set ``tiny``, and the folder of a source that has it."""
    source = tmp_path / "source" / "TINY" / "raw"
    source.mkdir(parents=True)
    for path, data in TINY.items():
        (tmp_path / "source" / "TINY" / f"{path}.gz").write_bytes(gzip.compress(data))
    shas = {path: hashlib.sha256(data).hexdigest() for path, data in TINY.items()}
    made = datasets.DataSet("TINY", shas, ("http://127.0.0.1:1/", source.as_uri() + "/"), 10, 30)
    monkeypatch.setitem(datasets.KNOWN, "tiny", made)
    monkeypatch.delenv(datasets.PLACE, raising=False)
    return tmp_path


def test_a_known_data_set_is_downloaded_once_and_verified(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tiny / "cache"
    assert datasets.cached("tiny", cache) is None
    folder = datasets.fetched("tiny", cache)
    assert {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    } == TINY
    # The second time no source is asked.
    monkeypatch.setenv(datasets.PLACE, str(tiny / "nowhere"))
    assert datasets.fetched("tiny", cache) == datasets.cached("tiny", cache) == folder


def test_a_download_that_fails_names_the_ways_out(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> str:
        with pytest.raises(SyncError) as caught:
            datasets.fetched("tiny", tiny / "cache")
        assert datasets.cached("tiny", tiny / "cache") is None
        assert "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.setenv(datasets.PLACE, str(tiny / "nowhere"))
    assert "tiny could not be downloaded to this machine: raw/one.gz: " in said()
    assert "set ORCH_DATASETS to a folder or URL that has TINY/raw/one.gz" in said()
    assert "orch sync --data FOLDER/TINY" in said()
    monkeypatch.setenv(datasets.PLACE, str(tiny / "source"))
    target = tiny / "source" / "TINY" / "raw" / "two.gz"
    target.write_bytes(gzip.compress(b"other"))
    assert "two.gz has other contents than expected" in said()
    target.write_bytes(gzip.compress(b"two")[:-9])
    assert "raw/two.gz: " in said()
    target.write_bytes(gzip.compress(b"two"))
    assert datasets.fetched("tiny", tiny / "cache").name == "TINY"
    assert {path.name for path in (tiny / "cache" / "datasets").iterdir()} == {"TINY", "TINY.complete"}
