"""Metrics: read from files and printed lines, drawn, and written by the module that scripts import."""

from __future__ import annotations

import io
import json
import math
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.program import cli
from orchestrator.core.metrics.drawing import drawn
from orchestrator.core.metrics.series import Gathered, Series, chosen
from orchestrator.core.metrics.texts import Printed, add_object
from orchestrator.core.metrics.tfevents import add_events, masked_crc, records
from orchestrator.errors import UsageError
from orchestrator.local.history.metrics import read_metrics
from orchestrator.node.modules import python_path
from orchestrator.remote.node import program
from tests.conftest import ROOT
from tests.unit.test_history import FIRST, SECOND, ended, put, record

# Written by torch.utils.tensorboard: scalars of both styles, a histogram and a text.
EVENTS = ROOT / "tests" / "recorded" / "metrics" / "events.out.tfevents.torch"


def series(name: str, *values: float, source: str = "there") -> Series:
    found = Series(name, source)
    for value in values:
        found.add(None, value, None)
    return found


def read(found: Gathered) -> dict[str, list[tuple[float, float]]]:
    return {name: list(zip(each.steps, each.values, strict=True)) for name, each in found.series.items()}


def test_tensorboards_scalars_are_read() -> None:
    found = Gathered("tb")
    with EVENTS.open("rb") as file:
        add_events(found, file)
    assert found.series.keys() == {"train/loss", "lr", "new", "double"}
    loss = found.series["train/loss"]
    assert list(loss.steps) == [0, 10, 20, 30, 40, 50] and list(loss.times) == [1000 + n for n in range(6)]
    assert list(loss.values)[:2] == [1.0, 0.5] and math.isnan(loss.values[-1])
    assert read(found)["new"] == [(7, 2.5)] and read(found)["double"] == [(8, 2.25)]


@given(st.integers(0, 6000), st.binary(max_size=40))
def test_a_damaged_event_file_gives_what_came_before(at: int, put_there: bytes) -> None:
    data = EVENTS.read_bytes()
    whole, cut, damaged = Gathered("tb"), Gathered("tb"), Gathered("tb")
    add_events(whole, io.BytesIO(data))
    add_events(cut, io.BytesIO(data[:at]))
    for name, points in read(cut).items():
        assert str(read(whole)[name]).startswith(str(points)[:-1])
    add_events(damaged, io.BytesIO(data[:at] + put_there + data[at + len(put_there) :]))
    assert sum(map(len, damaged.series.values())) <= sum(map(len, whole.series.values()))


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_messages_of_any_bytes_are_skipped(messages: list[bytes]) -> None:
    data = b"".join(
        (header := struct.pack("<Q", len(each))) + struct.pack("<I", masked_crc(header)) + each + bytes(4)
        for each in messages
    )
    assert list(records(io.BytesIO(data))) == messages
    add_events(Gathered("tb"), io.BytesIO(data))


def test_the_checksum_is_that_of_its_definition() -> None:
    crc = 0xE3069283  # of "123456789" (RFC 3720 names the polynomial)
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_lines_of_json_are_read() -> None:
    found = Gathered("there")
    for line in (
        b'{"epoch": 1, "step": 10, "time": 5, "train": {"loss": 0.5, "ok": true}, "name": "x"}',
        b"not json",
        b"[1]",
        b'{"step": 20, "train": {"loss": NaN}}',
        b'{"huge": 1' + b"0" * 400 + b"}",
    ):
        add_object(found, line)
    loss = found.series["train/loss"]
    assert list(loss.steps) == [10, 20] and loss.values[0] == 0.5 and math.isnan(loss.values[1])
    assert loss.times[0] == 5 and math.isnan(loss.times[1])
    assert found.series.keys() == {"epoch", "train/loss"}


@given(st.binary(max_size=80))
def test_no_line_is_too_strange(line: bytes) -> None:
    add_object(Gathered("there"), line)
    Printed().add_line(Gathered("there"), line)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("epoch 3: loss=0.25 lr: 1e-3", {"loss": 0.25, "lr": 1e-3}),
        ("train/loss = .5, acc=99%", {"train/loss": 0.5, "acc": 99.0}),
        ("loss=nan val_loss=-inf", {"loss": math.nan, "val_loss": -math.inf}),
        ("2026-11-27 12:30:05 listening on 10.0.0.3:22, http://a:80/x, v=1.2.3, sha=0a1b", {}),
        (" 10%|#| 3/30\r 20%|##| loss=0.5\r", {"loss": 0.5}),
    ],
)
def test_numbers_in_printed_lines(line: str, values: dict[str, float]) -> None:
    found = Gathered("there")
    Printed().add_line(found, line.encode())
    assert str({name: each.values[0] for name, each in found.series.items()}) == str(values)


def test_a_pattern_of_ones_own() -> None:
    found = Gathered("there")
    printed = Printed(r"it (?P<step>\d+) \[(?P<loss>\S+)\]")
    for line in (b"it 5 [0.5]", b"it 6 [-]", b"loss=3", b"it 7 [0.25]"):
        printed.add_line(found, line)
    assert read(found) == {"loss": [(5, 0.5), (7, 0.25)]}


def test_a_metric_is_chosen_by_name_or_its_end() -> None:
    found = [series("val/loss", 1), series("loss", 2), series("val/loss", 3, source="tb")]
    assert chosen(found, "loss", None, "r").values[0] == 2
    assert chosen(found[:1], "loss", None, "r").values[0] == 1
    assert chosen(found, "loss", "tb", "r").values[0] == 3
    with pytest.raises(UsageError, match="run r has no metric 'los' from nowhere → it has loss, val/loss"):
        chosen(found, "los", "nowhere", "r")


@given(st.lists(st.floats() | st.floats(0, 10), max_size=30), st.booleans())
def test_any_values_are_drawn_within_the_frame(values: list[float], log: bool) -> None:
    rows = drawn([series("loss", *values), series("other", 1.0, 2.0)], 60, 8, log=log)
    assert len(rows) == 9
    assert all(len("".join(cell.text for cell in row)) <= 66 for row in rows)


def test_a_drawing() -> None:
    rows = drawn([series("a", 0, 1, 2, 3), series("b", 3, 2, 2, 3)], 32, 4)
    assert ["".join(cell.text for cell in row).rstrip() for row in rows] == [
        "       3 ┤⠉⠒⠤⢄⣀          ⣀⡠⠤⠒⠉ ab",
        "         │     ⠉⠒⠒⠒⠒⠒⠒⠒⠒⠉",
        "       1 ┤     ⣀⠤⠔⠊⠉",
        "       0 ┤⣀⠤⠒⠊⠉",
        "          1                  4",
    ]


def test_a_mean_of_several_values_and_hours() -> None:
    assert list(series("a", 1, 3, 5).smoothed(2).values) == [1, 2, 4]
    timed = Series("a", "there")
    for hour in range(3):
        timed.add(hour, hour, 1000 + 3600 * hour)
    assert list(timed.over_time().steps) == [0, 1, 2]
    assert len(series("a", 1).over_time()) == 0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Two runs that measured something, by all means."""
    base = tmp_path / "runs"
    for run_id, name in ((FIRST, "mine"), (SECOND, None)):
        folder = put(base, record(run_id, name=name), ended(0))
        for node in ("a", "b"):
            (folder / node / "tb").mkdir(parents=True)
            (folder / node / "metrics.jsonl").write_text('{"step": 1, "loss": 4}\n{"step": 2, "loss": 3}\n')
        (folder / "b" / "tb" / EVENTS.name).write_bytes(EVENTS.read_bytes())
        for logs, step in (("logs/a", 1), ("logs/a/attempt2", 2), ("logs/a/attempt10", 3)):
            (folder / logs).mkdir(parents=True, exist_ok=True)
            (folder / logs / "rank0.stdout.log").write_text(f"step={step} speed={step * 10}\n")
    return base


def test_a_run_is_read_from_all_that_it_left(base: Path) -> None:
    found = read_metrics(base / FIRST, ("a", "b"), 0, None)
    assert [(each.name, each.source, len(each)) for each in found] == [
        ("loss", "a/metrics.jsonl", 2),
        ("train/loss", "b/tb (TensorBoard)", 6),
        ("lr", "b/tb (TensorBoard)", 5),
        ("new", "b/tb (TensorBoard)", 1),
        ("double", "b/tb (TensorBoard)", 1),
        ("speed", "rank 0's stdout", 3),
    ]
    assert list(found[-1].steps) == [1, 2, 3]


def orch(base: Path, *words: str) -> str:
    done = CliRunner().invoke(cli, ["runs", "--runs-dir", str(base), *words])
    return done.output if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)


def test_curves_of_two_runs(base: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    orch(base, "plot", "mine", SECOND, "-m", "loss")
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "loss by step"
    assert lines[-2:] == [
        f"{letter}  {title}: 3 at step 2, least 3 at step 2, greatest 4 at step 1 (a/metrics.jsonl)"
        for letter, title in (("a", f"{FIRST} (mine)"), ("b", SECOND))
    ]
    orch(base, "metrics", "mine")
    assert "speed       rank 0's stdout          3    1-3     10    30     10        30" in capfd.readouterr().out
    orch(base, "metrics", "mine", "--json")
    told = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert told[1]["values"][-1] is None and told[0]["values"] == [4, 3]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), f"say which metric to draw → --metric: run {FIRST} has loss, train/loss, lr, new, double, speed"),
        (("-m", "los"), f"run {FIRST} has no metric 'los' → it has loss"),
        (("-m", "speed", "--x", "time"), "rank 0's stdout of run"),
        (("-m", "loss", "--pattern", "("), "--pattern '(' is no regular expression"),
        (("-m", "loss", "--pattern", "x"), r"names no metric → for example 'step (?P<step>\d+)"),
        (("-m", "loss", "-o", "loss.gif"), "'loss.gif' does not end in .png, .svg or .pdf"),
        (("-m", "loss", "-o", "none/loss.svg"), "cannot write none/loss.svg: No such file or directory"),
    ],
)
def test_what_cannot_be_drawn(base: Path, words: tuple[str, ...], error: str) -> None:
    assert error in orch(base, "plot", "mine", *words)


def test_a_picture(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "loss.svg"
    orch(base, "plot", "mine", SECOND, "-m", "loss", "--log", "-o", str(picture))
    assert f"{FIRST} (mine)" in picture.read_text()
    assert [path.name for path in tmp_path.iterdir() if "loss" in path.name] == ["loss.svg"]


SCRIPT = """
from orch_metrics import log, step
class Tensor:
    def __float__(self):
        return 0.5
for number in range(3):
    assert step() == number + 1
log({"train/loss": Tensor()}, lr=1)
log(step=9, lr=2)
assert step(100) == 100
log(lr=3)
"""


def imported(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the modules of the node program as nodes have it."""
    name, data = program()
    (tmp_path / name).write_bytes(data)
    inside = next(
        each for each in zipfile.ZipFile(io.BytesIO(data)).namelist() if each.endswith("orch_metrics.py")
    )
    place = f"{tmp_path / name}/{inside.rpartition('/')[0]}"
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env={"PYTHONPATH": place, **env}, capture_output=True, text=True
    )


def test_the_module_for_scripts(tmp_path: Path) -> None:
    assert imported(tmp_path, ORCH_OUTPUT_DIR=f"{tmp_path / 'out'}").returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line.pop("time") > 1e9 for line in lines] == [True] * 3
    assert lines[0].pop("step_seconds") < 1 and lines[2].pop("step_seconds") < 1
    assert lines == [{"step": 3, "train/loss": 0.5, "lr": 1.0}, {"step": 9, "lr": 2.0}, {"step": 100, "lr": 3.0}]


@pytest.mark.parametrize("env", [{}, {"ORCH_OUTPUT_DIR": "OUT", "RANK": "1"}])
def test_the_module_writes_nothing_elsewhere(tmp_path: Path, env: dict[str, str]) -> None:
    done = imported(tmp_path, **{name: value.replace("OUT", str(tmp_path / "out")) for name, value in env.items()})
    assert (done.returncode, done.stderr) == (0, "") and not (tmp_path / "out").exists()


def test_a_failure_to_write_ends_no_script(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    done = imported(tmp_path, ORCH_OUTPUT_DIR=f"{tmp_path / 'out'}")
    assert done.returncode == 0
    assert done.stderr == f"orch_metrics: cannot write {tmp_path / 'out'}/metrics.jsonl: File exists\n"


def test_the_modules_come_last_and_once() -> None:
    here = python_path({})["PYTHONPATH"]
    assert Path(here, "orch_metrics.py").exists()
    assert python_path({"PYTHONPATH": "/a::/b"})["PYTHONPATH"] == f"/a:/b:{here}"
    assert python_path({"PYTHONPATH": f"/a:{here}"})["PYTHONPATH"] == f"/a:{here}"
