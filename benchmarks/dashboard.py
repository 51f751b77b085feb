"""How fast the dashboard answers while 512 ranks print 100 lines a second each, against a run of two silent ranks.

Needs Chromium, and the packages playwright, starlette and uvicorn. Prints, for both runs, the time from a click to
the second frame after it, the time until a rank's log is shown, the memory of the server, and that of the page.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from orchestrator.core.history.record import Place, RunRecord, to_json
from orchestrator.protocol.events import Planned, WorkerFound, to_line

LINES = 100
# Pieces a second in which the lines are written.
PIECES = 5
CLICKED = """() => new Promise((done) => {
  const began = performance.now();
  [...document.querySelectorAll("button")].find((each) => each.textContent === "log").click();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
})"""


def recorded(base: Path, run_id: str, nodes: int, ranks: int) -> list[Path]:
    """Make a run's folder, and return the logs of its ranks."""
    names = tuple(f"node{number + 1:02}" for number in range(nodes))
    place = Place("hosts.yaml", str(base))
    made = RunRecord(run_id, time.time(), None, "train.py", (), names, nodes * ranks, place, None, {})
    folder = base / run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(to_json(made))
    events: list[Any] = [Planned(time=time.time(), nodes=names)]
    logs = []
    for number in range(nodes * ranks):
        node, local_rank = names[number // ranks], number % ranks
        events.append(
            WorkerFound(time=time.time(), node=node, rank=number, local_rank=local_rank, pid=9, logs="logs")
        )
        log = folder / "logs" / node / f"rank{number}.stdout.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        logs.append(log)
    (folder / "events.jsonl").write_text("".join(f"{to_line(event)}\n" for event in events))
    return logs


def print_lines(logs: list[Path], over: threading.Event) -> None:
    """Write ``LINES`` a second to each log."""
    step, files = 0, [log.open("ab", buffering=0) for log in logs]
    due = time.monotonic()
    while not over.is_set():
        step += 1
        count = LINES // PIECES
        for number, file in enumerate(files):
            file.write(
                b"".join(b"step=%d.%d rank=%d loss=0.123456 lr=0.001\n" % (step, n, number) for n in range(count))
            )
        due += 1 / PIECES
        over.wait(max(0.0, due - time.monotonic()))


def resident(pid: int) -> float:
    """Return the memory of a process in MB."""
    (line,) = (each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


def measured(page: Page, base: str, run_id: str, pid: int, seconds: float) -> dict[str, float]:
    """Watch a run for some seconds, and return what was seen."""
    page.goto(f"{base}#/run/{run_id}")
    page.locator(".ranks button").first.wait_for()
    clicks, shown = [], []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        clicks.append(page.evaluate(CLICKED))
        page.wait_for_timeout(300)
    for number in range(5):
        began = time.monotonic()
        page.locator(".ranks button").nth(number % 2).click()
        page.locator(".log div").first.wait_for(timeout=20_000)
        shown.append(time.monotonic() - began)
        page.get_by_role("button", name="Live").click()
    heap = page.evaluate("() => performance.memory.usedJSHeapSize") / 1e6
    return {
        "click, median, ms": statistics.median(clicks),
        "click, worst, ms": max(clicks),
        "log shown, median, ms": statistics.median(shown) * 1000,
        "server, MB": resident(pid),
        "page, MB": heap,
    }


def main() -> None:
    """Measure both runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each run is watched")
    parser.add_argument("--picture", type=Path, help="where to put a picture of the large run")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or sys.exit("no Chromium is installed")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        base = Path(folder)
        large = recorded(base, "20260101-000000-aaaa", 64, 8)
        for log in recorded(base, "20260101-000001-bbbb", 2, 1):
            log.write_text("a line\n")
        over = threading.Event()
        words = [sys.executable, "-m", "orchestrator", "dashboard", "--port", "0", "--runs-dir", folder]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            found = re.search(r"(http://\S+)/\?token=\S+", server.stdout.readline())
            assert found
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(found[0])
            yardstick = measured(page, found[1], "20260101-000001-bbbb", server.pid, options.seconds / 3)
            writer = threading.Thread(target=print_lines, args=(large, over))
            writer.start()
            loaded = measured(page, found[1], "20260101-000000-aaaa", server.pid, options.seconds)
            if options.picture:
                page.wait_for_timeout(1500)
                page.screenshot(path=options.picture)
            over.set()
            writer.join()
            browser.close()
            server.terminate()
        for name, value in loaded.items():
            print(
                f"{name:<24} {value:8.1f}   two silent ranks: {yardstick[name]:8.1f}   ratio {value / yardstick[name]:.1f}"
            )


if __name__ == "__main__":
    main()
