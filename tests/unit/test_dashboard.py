"""The dashboard's server: who may use it, and what it answers."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.history.exposition import exposition
from orchestrator.core.metrics.series import Series, thinned
from orchestrator.core.run.output import NodeSample
from orchestrator.dashboard.logs import LONGEST, MERGED, MOST_LINES, PIECE, Merged, search, window
from orchestrator.local.history.runs import recorded_runs
from orchestrator.local.history.samples import Samples, newest_samples, read_samples
from orchestrator.protocol.events import Planned, RankFailed, WorkerFound
from tests.conftest import ROOT
from tests.unit.test_history import BEGAN, FIRST, SECOND, THIRD, ended, put, record

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@dataclass
class Site:
    """A dashboard that is served, and the cookie of its session."""

    process: subprocess.Popen[str]
    port: int
    cookie: str = ""

    def __call__(self, method: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send a request with our cookie, unless ``cookie`` says otherwise, and return status, headers and body."""
        host = f"127.0.0.1:{self.port}"
        given = {"host": host, "cookie": self.cookie, **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        for name, value in given.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.headers, body

    def json(self, path: str) -> Any:
        status, _, body = self("GET", path)
        assert status == 200, body
        return json.loads(body)

    def address(self) -> str:
        """Return the path, with its token, that was printed last."""
        assert self.process.stdout
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)(/\?token=\S+)", line):
                self.port = int(found[1])
                return found[2]
        raise AssertionError("no address was printed")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one of which failed."""
    base = tmp_path_factory.mktemp("dashboard") / "runs"
    worker = WorkerFound(time=BEGAN, node="b", rank=1, local_rank=0, pid=5, logs="logs")
    failed = RankFailed(
        time=BEGAN + 5, node="b", rank=1, local_rank=0, pid=5, exit_code=1, signal=None, failed_at=None
    )
    planned = Planned(time=BEGAN, nodes=("a", "b"))
    put(base, record(FIRST, name="mine"), ended(0))
    folder = put(base, record(SECOND), [planned, worker, failed, *ended(1, "rank 1 <b>failed</b>")[1:]])
    put(base, record(THIRD), [planned])
    (folder / "a").mkdir()
    (folder / "a" / "metrics.jsonl").write_text("".join(f'{{"step": {n}, "loss": {9 - n}}}\n' for n in range(9)))
    for node, rank in (("a", 0), ("b", 1)):
        (folder / "logs" / node).mkdir(parents=True)
        text = "".join(f"line {n} of rank {rank}\n" for n in range(20_000))
        (folder / "logs" / node / f"rank{rank}.stdout.log").write_text(text + "a part\rthe Last\n")
    samples = Samples(folder)
    for n in range(4):
        samples.take(NodeSample("a", 0.1 * n, 1, 2, ((0.9, 1, 2),), BEGAN + 10 * n))
        samples.take(NodeSample("a", 0.0, 1, 2, (), BEGAN + 10 * n + 1))
    return base


@pytest.fixture(scope="module")
def site(base: Path) -> Iterator[Site]:
    words = [sys.executable, "-m", "orchestrator", "dashboard", "--port", "0", "--runs-dir", str(base)]
    env = {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PATH": "/usr/bin:/bin",
        "ORCH_METRICS_TOKEN": "monitor",
    }
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        made = Site(process, 0)
        path = made.address()
        status, headers, _ = made("GET", path)
        assert (status, headers["location"]) == (303, "/")
        attributes = headers["set-cookie"]
        assert "HttpOnly" in attributes and "SameSite=strict" in attributes
        made.cookie = attributes.partition(";")[0]
        assert made("GET", path, cookie="")[0] == 403, "a token is good for one session"
        yield made
        process.terminate()


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {"cookie": ""}),
        ("GET", "/api/runs", {"cookie": "orch_session=wrong"}),
        ("GET", "/page/main.js", {"cookie": ""}),
        ("GET", "/?token=", {"cookie": ""}),
        ("GET", "/?token=%ff", {"cookie": ""}),
        ("GET", "/api/runs", {"host": "evil.example:80"}),
        ("GET", "/api/runs", {"origin": "http://evil.example"}),
        ("GET", "/api/runs", {"origin": "null"}),
        ("GET", "/api/runs", {"sec-fetch-site": "cross-site"}),
        ("POST", f"/api/runs/{THIRD}/stop", {}),
        ("POST", f"/api/runs/{THIRD}/stop", {"origin": "http://evil.example"}),
        ("GET", "/metrics", {"cookie": "", "authorization": "Bearer wrong"}),
        ("GET", "/api/runs", {"cookie": "", "authorization": "Bearer monitor"}),
    ],
)
def test_others_are_refused(site: Site, method: str, path: str, headers: dict[str, str]) -> None:
    status, given, body = site(method, path, **headers)
    assert status == 403 and body.startswith(b"403: ")
    assert not [name for name in given if name.lower().startswith("access-control")]


def test_every_answer_may_load_only_what_is_ours(site: Site) -> None:
    for path in ("/", "/page/main.js", "/api/runs", "/nothing"):
        headers = site("GET", path)[1]
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_the_page_refers_to_no_other_host() -> None:
    for path in (ROOT / "orchestrator" / "dashboard" / "page").iterdir():
        text = path.read_text()
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write|eval\(|style=", text), path


def test_runs_are_listed_and_shown(site: Site) -> None:
    assert [(run["run_id"], run["state"]) for run in site.json("/api/runs")] == [
        (THIRD, "left"),
        (SECOND, "failed"),
        (FIRST, "ok"),
    ]
    shown = site.json(f"/api/runs/{SECOND}")
    assert [(node["name"], node["ranks"]) for node in shown["nodes"]] == [
        ("a", []),
        ("b", [{"rank": 1, "state": "failed"}]),
    ]
    assert shown["cause"]["what"] == "rank 1 <b>failed</b>" and shown["cause"]["remedy"] == "look"
    assert shown["logs"] == ["a/rank0.stdout.log", "b/rank1.stdout.log"]
    assert shown["timeline"][-1]["what"].startswith("the run is over: ")


@pytest.mark.parametrize("run", ["nothing", "..", "%2e%2e", "20260101-000000-zzzz", f"{FIRST}%2f..%2f{SECOND}"])
def test_only_recorded_runs_are_shown(site: Site, run: str) -> None:
    assert site("GET", f"/api/runs/{run}")[0] == 404


def test_metrics_curves_and_loads(site: Site) -> None:
    (loss,) = (each for each in site.json(f"/api/runs/{SECOND}/metrics") if each["name"] == "loss")
    assert (loss["values"], loss["last"]) == (9, 1)
    (curve,) = site.json(f"/api/runs/{SECOND}/curves?metric=loss")
    assert curve["points"][:2] == [[0, 9], [1, 8]]
    assert site.json(f"/api/runs/{SECOND}/curves?metric=none") == []
    loads = site.json(f"/api/runs/{SECOND}/loads")
    assert loads["nodes"] == {"a": {"cpu": [0.0, 0.1, 0.2, 0.3], "gpu 0": [0.9] * 4}}
    assert site.json(f"/api/runs/{FIRST}/loads")["nodes"] == {}


def test_a_log_is_read_backwards_in_windows(site: Site) -> None:
    path = f"/api/runs/{SECOND}/log?name=b/rank1.stdout.log"
    last = site.json(path)
    assert last["lines"][-1] == "the Last" and last["end"] == last["size"]
    lines, begin = last["lines"], last["begin"]
    while begin:
        earlier = site.json(f"{path}&end={begin}")
        lines, begin = earlier["lines"] + lines, earlier["begin"]
    assert lines == [*(f"line {n} of rank 1" for n in range(20_000)), "the Last"]
    for name in ("../run.json", "/etc/passwd", "../../x.log", "b", ""):
        assert site.json(f"/api/runs/{SECOND}/log?name={urllib.parse.quote(name)}")["lines"] == []


def test_logs_are_searched(site: Site) -> None:
    found = site.json(f"/api/runs/{SECOND}/search?text=LAST")
    assert [(each["log"], each["line"]) for each in found["matches"]] == [
        ("a/rank0.stdout.log", "the Last"),
        ("b/rank1.stdout.log", "the Last"),
    ]
    one = site.json(f"/api/runs/{SECOND}/search?text=line&name=b/rank1.stdout.log")
    assert len(one["matches"]) == 200 and one["more"]
    assert {each["log"] for each in one["matches"]} == {"b/rank1.stdout.log"}
    match = one["matches"][7]
    window = site.json(f"/api/runs/{SECOND}/log?name={match['log']}&end={match['end']}")
    assert window["lines"][-1] == match["line"] == "line 7 of rank 1"


def test_what_cannot_be_done_is_said(site: Site) -> None:
    origin = f"http://127.0.0.1:{site.port}"
    status, _, body = site("POST", f"/api/runs/{THIRD}/stop", origin=origin)
    assert (status, json.loads(body)) == (409, {"error": "cannot start orch in /where: No such file or directory"})
    assert site("GET", f"/api/runs/{THIRD}/stop", origin=origin)[0] == 405
    assert site("GET", "/doctor.html")[0] == 404


def test_a_monitoring_system_reads_with_its_token(site: Site) -> None:
    status, headers, body = site("GET", "/metrics", cookie="", authorization="Bearer monitor")
    assert status == 200 and headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert b'orch_runs{state="failed"} 1\n' in body and body.endswith(b"# EOF\n")


def test_what_a_monitoring_system_reads(base: Path) -> None:
    runs = recorded_runs(base)
    runs[1] = type(runs[1])(**{**vars(runs[1]), "state": "running", "name": 'a"b\\c', "metrics": {"loss": 1.5}})
    text = exposition(runs, {SECOND: newest_samples(base / SECOND)})
    about = f'run="{SECOND}",name="a\\"b\\\\c",workload="train.py"'
    assert text.splitlines()[2:7] == [
        'orch_runs{state="running"} 1',
        'orch_runs{state="ok"} 1',
        'orch_runs{state="failed"} 0',
        'orch_runs{state="stopped"} 0',
        'orch_runs{state="left"} 1',
    ]
    assert f'orch_run_metric{{{about},metric="loss"}} 1.5\n' in text
    assert f'orch_gpu_busy_ratio{{run="{SECOND}",node="a",gpu="0"}} 0.9\n' in text


def test_samples_that_are_damaged_are_skipped(base: Path) -> None:
    folder = base / SECOND
    before = read_samples(folder)
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"time": 1}\nnot json\n{"time": "x", "node": "a", "cpu": 1, "gpus": []}\n[]\n')
    assert read_samples(folder) == before
    assert [row["time"] for row in newest_samples(folder)] == [BEGAN + 30]


def test_merged_logs_stay_bounded(tmp_path: Path) -> None:
    logs = [tmp_path / "logs" / f"n{n}" / f"rank{n}.stdout.log" for n in range(40)]
    for log in logs:
        log.parent.mkdir(parents=True)
        log.write_text("old\n" * 50_000)
    merged = Merged(tmp_path)
    first = merged.after(0)
    assert len(first["lines"]) == MOST_LINES and first["skipped"] >= 40 * (200_000 - PIECE)
    assert len(merged.lines) == MERGED
    assert merged.after(first["last"]) == {**first, "lines": []}
    for n, log in enumerate(logs):
        with log.open("ab") as file:
            file.write(b"new %d\nhal" % n)
    told = merged.after(first["last"])
    assert sorted(each["line"] for each in told["lines"]) == sorted(f"new {n}" for n in range(40))
    logs[3].open("ab").write(b"f\n" + b"x" * 3 * LONGEST)
    assert [(each["log"], each["line"]) for each in merged.after(told["last"])["lines"]] == [
        ("n3/rank3.stdout", "half")
    ]


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(0, 700))
def test_a_window_of_any_bytes(parts: list[bytes], end: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "logs", "x.log")
        log.parent.mkdir()
        log.write_bytes(b"".join(parts))
        told = window(log, end)
        assert 0 <= told["begin"] <= told["end"] <= told["size"] == log.stat().st_size
        json.dumps(told)
        json.dumps(search(Path(folder), "a", ""))


@given(st.lists(st.floats(), max_size=60), st.integers(4, 30))
def test_thinning_keeps_the_extremes(values: list[float], most: int) -> None:
    line = Series("a", "there")
    for value in values:
        line.add(None, value, None)
    points = thinned(line, most)
    numbers = [value for value in values if value == value and abs(value) != float("inf")]
    kept = [value for _, value in points if value is not None]
    assert len(points) <= most + 2
    if numbers:
        assert (min(kept), max(kept)) == (min(numbers), max(numbers))
    assert points == sorted(points, key=lambda point: point[0])
