"""``orch stop``: end a run and its leftovers on every host."""

from __future__ import annotations

from orchestrator.core.inventory.target import Target
from orchestrator.core.run.policy import grace_of
from orchestrator.core.text.counted import counted
from orchestrator.errors import HostErrors
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.stopping import HostStopped, stop_on_all
from orchestrator.remote.fanout import failures
from orchestrator.ui.display import Display


def stop(target: Target, run_id: str | None, grace: float | None, display: Display) -> int:
    """Stop ``run_id``, or every run if it is None. Return 0 when no process of these runs is left.

    Ranks have ``grace`` seconds to end; None means the inventory's value. Raises HostErrors, after all hosts have
    finished, for the hosts that still run something.
    """
    with open_cluster(target, spares_too=True) as opened:
        seconds = grace_of(opened.inventory.grace, grace).stop
        with display.stage(f"stopping; ranks have at most {seconds:g} s to end"):
            outcomes = stop_on_all(opened, run_id, seconds)
    errors = failures(outcomes)
    hosts_of: dict[str, list[str]] = {}
    for outcome in outcomes:
        if isinstance(outcome, HostStopped):
            for each in outcome.runs:
                hosts_of.setdefault(each, []).append(outcome.host)
            if outcome.leftovers:
                display.note(
                    f"{outcome.host}: ended {counted(outcome.leftovers, 'process')} that no supervisor watched"
                )
            if outcome.held_by and run_id is not None:
                display.note(f"{outcome.host}: the lock is held by {outcome.held_by}, not by a run of yours")
            errors += outcome.errors(run_id)
    for each, hosts in hosts_of.items():
        display.write(f"stopped {each} on {', '.join(hosts)}\n")
    if errors:
        raise HostErrors(errors, len(outcomes))
    if not hosts_of:
        display.write("nothing to stop\n")
    return 0
