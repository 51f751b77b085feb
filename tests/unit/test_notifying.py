"""``--notify``: which events are told of, in which words, and how they are delivered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.core.run.notice import Notice, Notices
from orchestrator.errors import UsageError
from orchestrator.local import notifying
from orchestrator.local.notifying import NotTold, NotToldYet, check, deliver, shown
from orchestrator.operations import notifying as telling
from orchestrator.operations.notifying import Notifier
from orchestrator.protocol.events import Diagnosed, Event, Planned, RunFinished, WorkerFound, from_line
from orchestrator.ui.display import Display

RECORDED = Path(__file__).parent.parent / "recorded"
NODES = ("node1", "node2", "node3")
NOTICE = Notice("failed", "20261126-120000-ab12", "train.py", "orch: train.py (base) failed", "base", 1)


def told(*events: Event, name: str | None = None) -> list[str]:
    notices = Notices("20261126-120000-ab12", "train.py", name)
    return [notice.text for event in events if (notice := notices.of(event)) is not None]


def test_a_run_that_ends_is_told_of_with_how_long_it_took() -> None:
    events = (Planned(time=100.0, nodes=NODES, attempt=1), RunFinished(time=160.0, exit_code=0))
    assert told(*events) == ["orch: train.py (20261126-120000-ab12) ended well after 60 s"]
    assert told(events[0], RunFinished(time=160.0, exit_code=130), name="base") == [
        "orch: train.py (base) was stopped after 60 s"
    ]


def test_a_recorded_failure_is_told_of_once_with_its_cause_and_remedy() -> None:
    events = [from_line(line) for line in (RECORDED / "exception.jsonl").read_text().splitlines()]
    events.append(RunFinished(time=11.5, exit_code=1))
    notices = Notices("20261126-120000-ab12", "train.py")
    (notice,) = [made for event in events if (made := notices.of(event)) is not None]
    assert notice.text == (
        "orch: train.py (20261126-120000-ab12) failed after 12 s: rank 1 on node2 ended with exit code 1: "
        "ValueError: loss is not a number at step 12 → read the traceback in the rank's log"
    )
    assert (notice.event, notice.exit_code) == ("failed", 1)
    assert notice.cause == "ValueError: loss is not a number at step 12"


def test_a_new_attempt_and_a_restart_by_torchrun_are_told_of() -> None:
    lost = Diagnosed(
        time=5.0,
        node="node3",
        signature="node-lost",
        rank=None,
        what="node3 was lost",
        cause="",
        remedy="",
        evidence=(),
    )
    worker = WorkerFound(time=9.0, node="node1", rank=0, local_rank=0, pid=7, logs="logs", restart=1)
    assert told(
        Planned(time=0.0, nodes=NODES, attempt=1),
        lost,
        Planned(time=8.0, nodes=NODES[:2], attempt=2),
        worker,
        worker.replace(node="node2", rank=1),
        name="base",
    ) == [
        "orch: train.py (base) begins again as attempt 2 on node[1-2], because node3 was lost",
        "orch: train.py (base) torchrun restarted the ranks (restart 1)",
    ]


def test_a_secret_in_a_cause_is_masked() -> None:
    cause = "cannot read https://me:" + "word@host/data"
    failed = Diagnosed(
        time=5.0, node="node3", signature="exception", rank=0, what="rank 0", cause=cause, remedy="r", evidence=()
    )
    (text,) = told(failed, RunFinished(time=6.0, exit_code=1))
    assert "word" not in text


class Hook(BaseHTTPRequestHandler):
    """Answers with the statuses of its server, one by one, then 200; keeps what it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        assert isinstance(server, HookServer)
        server.got.append(json.loads(body))
        self.send_response(server.statuses.pop(0) if server.statuses else 200)
        self.send_header("Content-Length", "0")
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class HookServer(HTTPServer):
    """A webhook."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.statuses = list(statuses)
        self.got: list[dict[str, object]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/abc"


@contextmanager
def hook(*statuses: int) -> Iterator[HookServer]:
    with HookServer(*statuses) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_webhook_gets_json_that_chat_services_read() -> None:
    with hook() as server:
        deliver(server.url, NOTICE)
    (got,) = server.got
    assert (got["text"], got["content"]) == (NOTICE.text, NOTICE.text)
    assert (got["event"], got["run_id"], got["name"], got["exit_code"]) == ("failed", NOTICE.run_id, "base", 1)


@pytest.mark.parametrize(
    ("status", "kind"), [(500, NotToldYet), (429, NotToldYet), (408, NotToldYet), (404, NotTold), (302, NotTold)]
)
def test_only_an_answer_that_may_change_is_worth_another_try(status: int, kind: type[Exception]) -> None:
    with hook(status) as server, pytest.raises(kind, match=f"answers {status}"):
        deliver(server.url, NOTICE)


def test_a_webhook_that_cannot_be_reached_is_tried_again_later() -> None:
    with HookServer() as server:
        url = server.url
    with pytest.raises(NotToldYet, match="refused"):
        deliver(url, NOTICE)


def test_a_command_gets_the_notice_as_variables(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    deliver(f'echo "$ORCH_EVENT $ORCH_NAME $ORCH_EXIT_CODE: $ORCH_TEXT" >{kept}', NOTICE)
    assert kept.read_text() == f"failed base 1: {NOTICE.text}\n"
    with pytest.raises(NotToldYet, match="exit code 3: no such list"):
        deliver("echo no such list >&2; exit 3", NOTICE)


def test_the_desktop_is_told_by_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(notifying.sys, "platform", "linux")
    with pytest.raises(UsageError, match="no notify-send"):
        check("desktop")
    program = tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/got\n')
    program.chmod(0o755)
    check("desktop")
    deliver("desktop", NOTICE)
    assert (tmp_path / "got").read_text().splitlines() == [
        "--app-name=orch",
        "--urgency=critical",
        "--",
        "orch",
        NOTICE.text,
    ]


@pytest.mark.parametrize("where", ["", " ", "https://", "http:///path", "a\0b"])
def test_a_place_that_cannot_be_told_is_refused(where: str) -> None:
    with pytest.raises(UsageError, match="expected a URL, a command, or desktop"):
        check(where)


def test_the_path_of_a_webhook_is_not_shown() -> None:
    assert shown("https://hooks.example.org/services/secret") == "https://hooks.example.org/..."
    assert shown("mail me") == "mail me"


def test_a_notice_is_tried_again_and_what_fails_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(telling, "PAUSES", (0.01, 0.02))
    with hook(500) as good, hook(500, 503, 500) as bad, pytest.raises(UsageError):
        notifier = Notifier((good.url, bad.url), Display())
        with notifier.telling("train.py", "base"):
            raise UsageError("node1 does not answer", remedy="check the network")
    assert [got["text"] for got in good.got] == ["orch: train.py (base) did not start: node1 does not answer"] * 2
    assert len(bad.got) == 3
    said = capsys.readouterr().err
    assert "notify: http://127.0.0.1/... was not told that the run failed: the server answers 500" in said
    assert "hooks/abc" not in said


def test_a_place_that_never_answers_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(telling, "PATIENCE", 0.05)
    notifier = Notifier(("true",), Display())
    released = threading.Event()

    def stuck(where: str, notice: Notice) -> None:
        released.wait(30)

    monkeypatch.setattr(telling, "deliver", stuck)
    with pytest.raises(UsageError), notifier.telling("train.py"):
        raise UsageError("no")
    released.set()
    assert "notify: 1 not delivered within 0 s" in capsys.readouterr().err


def test_nobody_is_left_to_tell_of_a_detached_run() -> None:
    with pytest.raises(UsageError, match="--detach and --notify exclude each other"):
        Notifier(("true",), Display(), detach=True)
