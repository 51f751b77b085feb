"""``orch doctor``: find what would make a run fail, on every host and between any two, and name remedies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.findings import Examined, Finding
from orchestrator.core.checks.report import as_json
from orchestrator.core.inventory.target import Target
from orchestrator.errors import NodeUnreachable, OrchError, PreflightError, UsageError
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.mending import mend
from orchestrator.operations.run.rehearsal import rehearse
from orchestrator.operations.slurm.checking import check_scheduler
from orchestrator.operations.survey import DoctorOptions, survey
from orchestrator.ui.display import Display
from orchestrator.ui.doctor import show_examination
from orchestrator.ui.html import as_html


def doctor(target: Target, options: DoctorOptions, display: Display) -> int:
    """Check every host and every pair. Return 0 if a run could start, 4 if a host is unreachable, else 3.

    After mends, all checks are made again.
    """
    began, made = time.monotonic(), 0
    with open_cluster(target, spares_too=True, interpreters=True) as opened:
        examined, errors = survey(opened, options, display)
        findings = check(examined) if examined.hosts else ()
        if opened.inventory.scheduler is not None and not errors:
            findings = (*findings, *check_scheduler(opened, opened.inventory.scheduler, display))
        _show(examined, findings, errors, time.monotonic() - began, display)
        if options.agree is not None and (findings or errors):
            made = mend(opened, target.hosts_file, findings, errors, options.agree, display)
            display.note(f"{made} mended")
    if made:
        return doctor(target, replace(options, agree=None), display)
    failed = bool(errors) or any(each.severity == "fail" for each in findings)
    if options.deep and not display.as_json and not failed:
        failed = rehearse(target, options.backend, options.port, display) != 0
    if options.html is not None:
        try:
            options.html.write_text(as_html(examined, findings, errors), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {options.html}: {error.strerror}") from None
        display.note(f"wrote {options.html}")
    if any(isinstance(error, NodeUnreachable) for error in errors):
        return NodeUnreachable.exit_code
    return PreflightError.exit_code if failed else 0


def _show(
    examined: Examined, findings: Sequence[Finding], errors: Sequence[OrchError], seconds: float, display: Display
) -> None:
    if display.as_json:
        display.write(as_json(examined, findings, errors))
    else:
        show_examination(display, examined, findings, errors, seconds)
