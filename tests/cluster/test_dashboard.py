"""The dashboard in a real browser, on runs of three hosts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import Orch
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Trains on its own, and on one rank not to the end.
STEPS = """
import os, sys, time
from orch_metrics import log
rank, steps, wrong = int(os.environ["RANK"]), int(sys.argv[1]), float(sys.argv[2])
def train(step):
    time.sleep(0.1)
    if step == wrong and rank == 1:
        raise ValueError("the data <b>is</b> wrong")
    return 1 / (step + 1)
for step in range(steps):
    loss = train(step)
    log(step=step, loss=loss)
    print(f"step={step} loss={loss:.4f}", flush=True)
    if step == 5:
        print(f"a needle of rank {rank}", flush=True)
"""


@pytest.fixture
def browser() -> Iterator[object]:
    """A headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        reason = "no Chromium is installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root.
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def address(orch: Orch) -> Iterator[str]:
    """The address of a dashboard."""
    process = orch.popen("dashboard", "--port", "0")
    found = re.search(r"http://\S+", heard(process, "token="))
    assert found
    yield found[0]
    process.terminate()
    rest(process)


def test_a_run_is_watched_searched_compared_and_stopped(orch: Orch, address: str, browser: object) -> None:
    (orch.folder / "steps.py").write_text(STEPS)
    page = browser.new_page(viewport={"width": 1280, "height": 900})  # type: ignore[attr-defined]
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(f"{error}"))
    page.goto(address)
    first = orch.popen("run", "--name", "first", "steps.py", "60", "50")
    page.get_by_role("link", name=re.compile(r"^\d{8}-\d{6}-")).click(timeout=60_000)
    page.locator("h1 .running").wait_for()
    assert page.locator(".node").count() == 3 and "?token" not in page.url
    page.locator(".log div", has_text="step=20 ").first.wait_for(timeout=60_000)
    labels = {each.partition(" ")[0] for each in page.locator(".log div").all_inner_texts()}
    assert labels >= {"node1/rank0.stdout", "node2/rank1.stdout", "node3/rank2.stdout"}
    page.locator(".cause").wait_for(timeout=60_000)
    rest(first)
    assert "ValueError: the data <b>is</b> wrong" in page.locator(".cause").inner_text()
    page.locator("h1 .failed").wait_for()
    page.locator(".ranks button.failed").wait_for()
    assert page.locator(".node.failed .name").inner_text() == "node2"

    page.get_by_label("search the logs").fill("NEEDLE")
    page.locator(".log .hit", has_text="rank 2").wait_for()
    assert page.locator(".log .hit").count() == 3
    assert page.locator(".log .hit mark").first.inner_text() == "needle"
    page.locator(".log .hit", has_text="rank 2").click()
    page.locator(".log div", has_text="a needle of rank 2").wait_for()
    assert page.get_by_label("log", exact=True).input_value() == "node3/rank2.stdout.log"
    page.locator(".ranks button").first.click()
    page.locator(".log div", has_text="a needle of rank 0").wait_for()
    assert page.locator(".log div", has_text="needle of rank 2").count() == 0

    second = orch.popen("run", "--name", "second", "steps.py", "3000", "-1")
    page.get_by_role("link", name="orch", exact=True).click()
    page.locator("tbody tr").nth(1).wait_for(timeout=60_000)
    page.get_by_role("button", name="failed").click()
    page.get_by_text("1 of 2").wait_for()
    page.get_by_role("button", name="failed").click()
    page.locator("tbody tr", has_text="second").get_by_role("link").click()
    page.locator("h1 .running").wait_for()
    page.locator(".log div", has_text="step=").first.wait_for(timeout=60_000)
    page.get_by_role("button", name="Stacks").click()
    page.locator("pre.said", has_text="train at steps.py:").wait_for(timeout=60_000)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Stop the run").click()
    page.locator("pre.said", has_text="on node1, node2, node3").wait_for(timeout=60_000)
    assert "stopped" in rest(second)
    page.locator("h1 .running").wait_for(state="detached")

    page.get_by_role("link", name="orch", exact=True).click()
    for row in (0, 1):
        page.locator("tbody input").nth(row).check()
    page.get_by_role("button", name="Compare").click()
    page.locator(".legend span", has_text="orch-output/metrics.jsonl").nth(1).wait_for()
    assert page.get_by_label("metric").input_value() == "loss"
    assert not troubles
