"""``orch dashboard``: a web page about the recorded runs, on loopback."""

from __future__ import annotations

import os
import socket
import webbrowser
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.ui.display import Display

# The variable that holds the bearer token of a monitoring system.
MONITORING = "ORCH_METRICS_TOKEN"
ADDRESS = "127.0.0.1"


def dashboard(base: Path, port: int, opens: bool, display: Display) -> int:
    """Serve the page until Ctrl-C, and return 0. Raises UsageError if it cannot be served."""
    try:
        import uvicorn

        from orchestrator.dashboard.app import Dashboard
    except ImportError as error:
        remedy = "pip install 'orch-torch[dashboard]'"
        raise UsageError(f"the dashboard needs {error.name}", remedy=remedy) from None
    try:
        listener = socket.create_server((ADDRESS, port))
    except OSError as error:
        raise UsageError(
            f"port {port}: {os.strerror(error.errno or 0)}", remedy="pass another --port, or 0 for any"
        ) from None
    port = listener.getsockname()[1]
    issued = 0

    def issue(token: str) -> None:
        nonlocal issued
        issued += 1
        address = f"http://{ADDRESS}:{port}/?token={token}"
        if issued == 1:
            display.write(f"{address}\n")
            display.note("the address is good for one browser; Ctrl-C ends the dashboard")
            if opens:
                webbrowser.open(address)
        else:
            display.note(f"for another browser: {address}")

    hosts = (f"{ADDRESS}:{port}", f"localhost:{port}")
    app = Dashboard(base).app(hosts, issue, os.environ.get(MONITORING) or None)
    # The middleware is made with the first request, unless it is asked for.
    app.middleware_stack = app.build_middleware_stack()
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0
