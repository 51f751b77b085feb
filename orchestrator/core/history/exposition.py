"""Recorded runs as a monitoring system reads them: the text format of OpenMetrics 1.0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.history.listed import STATES, RecordedRun

TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def exposition(runs: Sequence[RecordedRun], loads: Mapping[str, Iterable[Mapping[str, object]]]) -> str:
    """Return how many runs there are in each state, and of those that go on the last metrics and loads.

    ``loads``: of a run that goes on, the newest sample of each node, as ``samples.jsonl`` has it.
    """
    lines = ["# TYPE orch_runs gauge", "# HELP orch_runs Recorded runs by how they ended."]
    for state in STATES:
        lines.append(_line("orch_runs", {"state": state}, sum(run.state == state for run in runs)))
    running = [run for run in runs if run.state == "running"]
    lines += ["# TYPE orch_run_began_seconds gauge", "# UNIT orch_run_began_seconds seconds"]
    lines += [_line("orch_run_began_seconds", _about(run), run.began or 0.0) for run in running]
    lines += ["# TYPE orch_run_metric gauge", "# HELP orch_run_metric The newest value of each metric of a run."]
    for run in running:
        lines += [
            _line("orch_run_metric", {**_about(run), "metric": name}, run.metrics[name]) for name in run.metrics
        ]
    lines += ["# TYPE orch_node_cpu_ratio gauge", "# UNIT orch_node_cpu_ratio ratio"]
    for run in running:
        for row in loads.get(run.run_id, ()):
            lines.append(_line("orch_node_cpu_ratio", {"run": run.run_id, "node": str(row["node"])}, row["cpu"]))
    lines += ["# TYPE orch_gpu_busy_ratio gauge", "# UNIT orch_gpu_busy_ratio ratio"]
    for run in running:
        for row in loads.get(run.run_id, ()):
            gpus = row["gpus"]
            assert isinstance(gpus, list)
            for number, gpu in enumerate(gpus):
                about = {"run": run.run_id, "node": str(row["node"]), "gpu": str(number)}
                lines.append(_line("orch_gpu_busy_ratio", about, gpu[0]))
    return "\n".join([*lines, "# EOF"]) + "\n"


def _about(run: RecordedRun) -> dict[str, str]:
    return {"run": run.run_id, "name": run.name or "", "workload": run.workload}


def _line(name: str, labels: Mapping[str, str], value: object) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
