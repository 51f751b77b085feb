"""Make the pictures of the dashboard in ``docs/pictures``: ``python -m docs.pictures``.

Needs Chromium and playwright. The runs in them are made up here: hosts that train, and a rank that fails.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from orchestrator.core.history.record import Place, RunRecord, to_json
from orchestrator.local.history.runs import Labels, write_labels
from orchestrator.protocol.events import (
    Diagnosed,
    Event,
    Finished,
    Planned,
    RankFailed,
    RunFinished,
    Straggler,
    TorchrunStarted,
    WorkerFound,
    to_line,
)

PICTURES = Path(__file__).parent / "pictures"
MINUTE = 60.0
FAILED = "rank 203 on gpu26 ended with exit code 1"


class Made:
    """A made-up run. ``minutes``: how long it took. ``failing``: whether it fails at its end."""

    def __init__(self, base: Path, began: float, name: str | None, args: Sequence[str], hosts: int) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(began))
        self.began = began
        self.nodes = tuple(f"gpu{number + 1:02}" for number in range(hosts))
        self.folder = base / f"{stamp}-{random.randrange(1 << 16):04x}"
        self.folder.mkdir(parents=True)
        place = Place("hosts.yaml", str(base))
        made = RunRecord(
            self.folder.name, began, name, "train.py", tuple(args), self.nodes, hosts * 8, place, None, {}
        )
        (self.folder / "run.json").write_text(to_json(made))
        self.events: list[Event] = [Planned(time=began, nodes=self.nodes)]

    def trained(self, minutes: int, rate: float, failing: bool) -> None:
        """Write what the run printed and measured, and how it ended."""
        end = self.began + minutes * MINUTE
        for number, node in enumerate(self.nodes):
            self.events.append(TorchrunStarted(time=self.began + 2, node=node, pid=40, version=1))
            for local_rank in range(8):
                rank = number * 8 + local_rank
                self.events.append(
                    WorkerFound(
                        time=self.began + 4,
                        node=node,
                        rank=rank,
                        local_rank=local_rank,
                        pid=50 + rank,
                        logs="logs",
                    )
                )
                self.log(node, rank, minutes)
        self.measured(minutes, rate)
        self.loads(minutes)
        if failing:
            self.fail(end)
        for node in self.nodes:
            self.events.append(
                Finished(
                    time=end + 3,
                    node=node,
                    exit_code=None if failing else 0,
                    signal=15 if failing else None,
                    stopped=failing,
                    killed=0,
                    oom_kills=0,
                )
            )
        self.events.append(RunFinished(time=end + 5, exit_code=1 if failing else 0))
        (self.folder / "events.jsonl").write_text("".join(f"{to_line(event)}\n" for event in self.events))

    def fail(self, end: float) -> None:
        """Let rank 203 fail, after its host was slow for a while."""
        self.events += [
            Straggler(
                time=end - 9 * MINUTE,
                node="gpu26",
                ranks=(203,),
                what="rank 203 on gpu26 holds the others up (busy 98% of the time, the others 31% to 40%): it "
                "waits for 212 pages of memory a second from the disk",
                remedy="the host swaps: use less memory there, or stop what else needs it",
            ),
            RankFailed(
                time=end, node="gpu26", rank=203, local_rank=3, pid=253, exit_code=1, signal=None, failed_at=None
            ),
            Diagnosed(
                time=end + 4,
                node="gpu26",
                signature="cuda-out-of-memory",
                rank=203,
                what=FAILED,
                cause="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
                remedy="use smaller batches, or gradient checkpointing",
            ),
        ]

    def log(self, node: str, rank: int, minutes: int) -> None:
        """Write the log of a rank."""
        path = self.folder / "logs" / node / f"rank{rank}.stdout.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            f"step={step} loss={loss:.4f} tokens/s={random.randrange(9200, 9900)}"
            for step, loss in losses(minutes, 1.0)
        )
        path.write_text("\n".join(list(lines)[-40:]) + "\n")

    def measured(self, minutes: int, rate: float) -> None:
        """Write the metrics of rank 0."""
        folder = self.folder / self.nodes[0]
        folder.mkdir()
        rows = [{"step": step, "loss": round(loss, 4)} for step, loss in losses(minutes, rate)]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def loads(self, minutes: int) -> None:
        """Write the load of the first hosts."""
        with (self.folder / "samples.jsonl").open("w") as file:
            for second in range(0, minutes * 60, 20):
                for node in self.nodes[:3]:
                    busy = [
                        [min(1.0, random.gauss(0.93, 0.05)) if second % 600 > 40 else 0.1, 1, 2] for _ in range(4)
                    ]
                    row = {
                        "time": self.began + second,
                        "node": node,
                        "cpu": random.uniform(0.2, 0.4),
                        "gpus": busy,
                    }
                    file.write(json.dumps(row) + "\n")


def losses(minutes: int, rate: float) -> Iterator[tuple[int, float]]:
    """Yield steps and their loss."""
    for step in range(0, minutes * 20, 2):
        yield step, 2.1 + 8 * math.exp(-step * rate / 300) + random.gauss(0, 0.06)


def made_up(base: Path) -> tuple[str, list[str]]:
    """Make the runs, and return the one that failed, and two to compare."""
    now = time.time()
    small = Made(base, now - 400 * MINUTE, "baseline", ("--lr", "3e-4", "--batch", "32"), 8)
    small.trained(90, 1.0, failing=False)
    write_labels(small.folder, Labels(("paper",), ()))
    warm = Made(base, now - 300 * MINUTE, "warmup", ("--lr", "6e-4", "--batch", "32", "--warmup", "500"), 8)
    warm.trained(90, 1.9, failing=False)
    large = Made(base, now - 80 * MINUTE, "large", ("--lr", "6e-4", "--batch", "64", "--layers", "48"), 64)
    large.trained(70, 1.4, failing=True)
    return large.folder.name, [small.folder.name, warm.folder.name]


def taken(browser: Browser, address: str, failed: str, compared: Sequence[str]) -> None:
    """Take the pictures."""
    context = browser.new_context(device_scale_factor=1)
    page = context.new_page()
    page.goto(address)
    base = page.url.partition("#")[0]
    views = {"runs": "#/", "run": f"#/run/{failed}", "compare": f"#/compare/{','.join(compared)}"}
    for view, width, scheme in (
        ("runs", 1280, "light"),
        ("runs", 390, "dark"),
        ("run", 1280, "light"),
        ("run", 1280, "dark"),
        ("run", 390, "light"),
        ("compare", 1280, "dark"),
    ):
        page.set_viewport_size({"width": width, "height": 560 if view == "compare" else 900})
        page.emulate_media(color_scheme=scheme)
        page.goto("about:blank")
        page.goto(base + views[view])
        page.locator({"runs": "tbody tr", "run": ".log div", "compare": ".legend span"}[view]).first.wait_for()
        if view == "run":
            page.locator(".legend span").first.wait_for()
            page.locator("canvas[aria-label^=load]").wait_for()
        path = PICTURES / f"{view}-{width}-{scheme}.png"
        page.screenshot(path=path, full_page=view == "run" and width > 800)
        # A third of the size, and no difference to be seen.
        Image.open(path).convert("RGB").quantize(96).save(path, optimize=True)


def main() -> None:
    """Make the runs, serve them, and take the pictures."""
    random.seed(1)
    chromium = shutil.which("chromium") or sys.exit("no Chromium is installed")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        failed, compared = made_up(Path(folder))
        words = [sys.executable, "-m", "orchestrator", "dashboard", "--port", "0", "--runs-dir", folder]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            taken(browser, found[0], failed, compared)
            browser.close()
            server.terminate()


if __name__ == "__main__":
    main()
