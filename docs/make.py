"""Regenerate the pages that are made from the code: ``python -m docs.make``. A test compares them with it."""

from __future__ import annotations

from pathlib import Path

from docs import coming_from
from docs.examples import examples
from orchestrator.core.checks import catalogue as checks
from orchestrator.core.checks.findings import Finding
from orchestrator.core.checks.report import from_json
from orchestrator.core.diagnosis import diagnosis
from orchestrator.core.inventory.schema import SCHEMA_FILE, schema_text

DOCS = Path(__file__).parent
RECORDED = DOCS.parent / "tests" / "recorded" / "doctor"
MARK = "<!-- from here on made by docs/make.py -->\n"


def seen() -> dict[str, list[Finding]]:
    """Return the findings of each check, by its name: of recorded faults, or of an example where there is none."""
    found: dict[str, list[Finding]] = {}
    for file in sorted(RECORDED.glob("*.json")):
        for finding in checks.check(from_json(file.read_text())):
            found.setdefault(finding.check, []).append(finding)
    for examined in examples():
        for finding in checks.check(examined):
            if not found.get(finding.check):
                found[finding.check] = [finding]
    return found


def pages() -> dict[Path, str]:
    """Return the generated part of each page."""
    return {
        DOCS / "doctor.md": checks.as_markdown(seen()),
        DOCS / "coming-from.md": coming_from.as_markdown(),
        DOCS / "troubleshooting.md": diagnosis.as_markdown(),
    }


def files() -> dict[Path, str]:
    """Return the files that are generated as a whole."""
    return {DOCS / SCHEMA_FILE: schema_text()}


if __name__ == "__main__":
    for file, text in files().items():
        file.write_text(text)
    for page, text in pages().items():
        head = page.read_text().partition(MARK)[0]
        page.write_text(head + MARK + text)
