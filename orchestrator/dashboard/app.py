"""The dashboard's addresses: its page, what the page asks for, and what a monitoring system reads."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from orchestrator.core.history.exposition import TYPE, exposition
from orchestrator.dashboard import acting, logs
from orchestrator.dashboard.guard import Guard
from orchestrator.dashboard.reading import Runs
from orchestrator.errors import OrchError
from orchestrator.local.history.runs import recorded_runs
from orchestrator.local.history.samples import newest_samples

PAGE = Path(__file__).parent / "page"
# How many runs' merged logs are followed at a time.
FOLLOWED = 4
Answering = Callable[[Path, Request], Any]


class Dashboard:
    """The answers about one runs folder."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.runs = Runs(base)
        self.merged: OrderedDict[str, logs.Merged] = OrderedDict()
        self.report = Path(tempfile.mkdtemp(prefix="orch-doctor-")) / "report.html"

    def app(self, hosts: tuple[str, ...], issue: Callable[[str], None], monitoring: str | None) -> Starlette:
        """Return the application; see ``Guard`` for the arguments."""
        about = {
            "": (lambda folder, _: self.runs.shown(folder)),
            "/metrics": (lambda folder, _: self.runs.metrics(folder)),
            "/curves": (lambda folder, request: self.runs.curves(folder, request.query_params.get("metric", ""))),
            "/loads": (lambda folder, _: self.runs.loads(folder)),
            "/log": self.log,
            "/search": self.search,
            "/merged": self.follow,
        }
        done = {
            "/stop": (lambda folder, _: acting.stop(folder)),
            "/stacks": (lambda folder, _: acting.stacks(folder)),
            "/doctor": (lambda folder, _: acting.doctor(folder, self.report)),
        }
        routes = [
            Route("/", self.page),
            Route("/metrics", self.monitored),
            Route("/doctor.html", self.doctored),
            Route("/api/runs", self.listed),
            *(Route("/api/runs/{run}" + end, self.answering(answer)) for end, answer in about.items()),
            *(
                Route("/api/runs/{run}" + end, self.answering(answer), methods=["POST"])
                for end, answer in done.items()
            ),
            Mount("/page", StaticFiles(directory=PAGE)),
        ]
        guard = Middleware(Guard, hosts=hosts, issue=issue, monitoring=monitoring)
        return Starlette(routes=routes, middleware=[guard])

    def answering(self, answer: Answering) -> Callable[[Request], Any]:
        """Return the handler of an address about one run. Files are read in threads."""

        async def handle(request: Request) -> Response:
            folder = self.runs.folder(request.path_params["run"])
            if folder is None:
                return JSONResponse({"error": "there is no such run"}, status_code=404)
            try:
                return JSONResponse(await run_in_threadpool(answer, folder, request))
            except OrchError as error:
                return JSONResponse({"error": f"{error}"}, status_code=409)
            except OSError as error:
                return JSONResponse({"error": f"{error.strerror}"}, status_code=409)

        return handle

    async def page(self, _: Request) -> Response:
        """Answer with the page."""
        return Response((PAGE / "index.html").read_bytes(), media_type="text/html")

    async def listed(self, _: Request) -> Response:
        """Answer with all runs."""
        return JSONResponse(await run_in_threadpool(self.runs.listed))

    async def monitored(self, _: Request) -> Response:
        """Answer a monitoring system."""

        def text() -> str:
            runs = recorded_runs(self.base)
            going = [run.run_id for run in runs if run.state == "running"]
            return exposition(runs, {run_id: newest_samples(self.base / run_id) for run_id in going})

        return Response(await run_in_threadpool(text), media_type=TYPE)

    async def doctored(self, _: Request) -> Response:
        """Answer with the newest report of ``orch doctor``, which may load and run nothing."""
        if not self.report.is_file():
            return PlainTextResponse("orch doctor was not run from here yet\n", status_code=404)
        policy = {"content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'"}
        return Response(self.report.read_bytes(), media_type="text/html", headers=policy)

    def log(self, folder: Path, request: Request) -> Any:
        """Return a window of one log."""
        path = logs.log_path(folder, request.query_params.get("name", ""))
        end = request.query_params.get("end", "")
        if path is None:
            return {"begin": 0, "end": 0, "size": 0, "lines": []}
        return logs.window(path, int(end) if end.isdecimal() else None)

    def search(self, folder: Path, request: Request) -> Any:
        """Return the lines of logs that hold a text."""
        text = request.query_params.get("text", "")
        if not text:
            return {"matches": [], "more": False}
        return logs.search(folder, text, request.query_params.get("name", ""))

    def follow(self, folder: Path, request: Request) -> Any:
        """Return the lines of all logs that came after a number."""
        merged = self.merged.setdefault(folder.name, logs.Merged(folder))
        self.merged.move_to_end(folder.name)
        while len(self.merged) > FOLLOWED:
            self.merged.popitem(last=False)
        after = request.query_params.get("after", "")
        return merged.after(int(after) if after.isdecimal() else 0)
