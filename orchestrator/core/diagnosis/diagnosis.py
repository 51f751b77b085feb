"""Diagnosis of a failed run: ``RunResult`` in; the cause, the node and rank to blame and a remedy out.

One fault looks different on each node, so the output of all nodes is examined together. The order of precedence
is: a line that names a cause, a signal or an exception, a network error, a timeout, a consequence of another
rank's end. Of several with equal precedence, the earliest counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from orchestrator.core.diagnosis.signatures import BY_NAME, HARMLESS, SIGNATURES, Kind, Signature
from orchestrator.core.run.result import REBOOTED, Failure, MatchedLine, RunResult
from orchestrator.protocol.events import Diagnosed

LONGEST_LINE = 400
EXCEPTION = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Failure|Refused|Timeout|Iteration)\w*(?::|$)"
)
# torch writes this prefix before each line of a traceback once a process group exists.
RANK_PREFIX = re.compile(r"^\[rank\d+\]: ?")
TRACEBACK = "Traceback (most recent call last):"
# torchrun's own failures, which only repeat those of a worker.
OF_TORCHRUN = re.compile(r"ChildFailedError|SignalException|SIGTERM|signal 15")


@dataclass(frozen=True)
class Diagnosis:
    """The first failure of a run. ``rank`` is None if a node or torchrun is to blame.

    ``evidence`` holds the lines that support the diagnosis; ``show_log`` tells whether the last lines of that
    rank's log say more.
    """

    signature: str
    node: str
    rank: int | None
    what: str
    cause: str
    remedy: str
    evidence: tuple[str, ...] = ()
    show_log: bool = True

    def as_event(self, time: float) -> Diagnosed:
        """Return the event that records the diagnosis."""
        return Diagnosed(time=time, **asdict(self))


@dataclass(frozen=True)
class Ending:
    """A way in which a run or a process ended, for failures that no line of output explains."""

    name: str
    cause: str
    remedy: str


ENDINGS: Mapping[str, Ending] = {
    ending.name: ending
    for ending in (
        Ending(
            "killed-for-memory",
            "the kernel killed the process because the node's memory ran out",
            "lower the batch size or the number of loader workers, or run fewer processes per node",
        ),
        Ending(
            "killed",
            "the process received SIGKILL; the kernel has counted no out-of-memory kill since the run began",
            "check the node's kernel log, its container's memory limit, and its other users",
        ),
        Ending(
            "segmentation-fault",
            "a native library crashed",
            "run with --env PYTHONFAULTHANDLER=1 to see where; compare torch, CUDA and driver with other nodes",
        ),
        Ending(
            "bus-error",
            "mapped memory could not be provided, most often because /dev/shm is full",
            "enlarge /dev/shm there (docker: --shm-size), or use fewer loader workers",
        ),
        Ending("aborted", "a native library aborted the process", "read the last lines of the rank's log"),
        Ending("terminated", "SIGTERM came from outside orch", "find out what sent SIGTERM on that node"),
        Ending("signal", "a signal ended the process", "find out what sent the signal on that node"),
        Ending("exception", "the script raised an exception", "read the traceback in the rank's log"),
        Ending(
            "exit-code",
            "the script ended with this exit code and no traceback",
            "read the last lines of the rank's log",
        ),
        Ending(
            "not-found", "the program was not found on the node (exit code 127)", "correct python: for this host"
        ),
        Ending(
            "not-permitted",
            "the program may not be executed on the node (exit code 126)",
            "correct the mode of the program there, or correct python: for this host",
        ),
        Ending("torchrun-ended", "torchrun itself failed", "read torchrun.log"),
        Ending(
            "supervisor-killed",
            "orch's supervisor on the node was killed, so the run was ended there",
            "start the run again; find out what kills processes on that node",
        ),
        Ending(
            "rebooted",
            "the machine was rebooted during the run",
            "start the run again; for the reason, see last -x reboot and the kernel log of the previous boot",
        ),
        Ending(
            "node-lost",
            "the machine is off, or its network is down",
            "once the node is back, end leftovers with orch stop RUN; to go on with a spare, use --max-restarts",
        ),
        Ending(
            "uneven-steps",
            "one rank finished while another still waited for it: they made different numbers of steps",
            "give all ranks the same number of batches (drop_last=True, or DistributedDataParallel's join())",
        ),
        Ending(
            "code-diverged",
            "ranks wait in different collectives: their code took different branches",
            "look for a branch that only some ranks take; the rank that is furthest behind is the suspect",
        ),
    )
}
OF_SIGNAL = {6: "aborted", 7: "bus-error", 9: "killed", 11: "segmentation-fault", 15: "terminated"}


def scan(text: str) -> list[tuple[str, str]]:
    """Return ``(signature, line)`` for each signature that the end of a log matches, with its first matching line.

    A traceback that matches no signature counts as ``exception``, with its last line.
    """
    found: dict[str, str] = {}
    in_traceback = False
    for raw in text.splitlines():
        line = RANK_PREFIX.sub("", raw.rstrip())[:LONGEST_LINE]
        if TRACEBACK in line:
            in_traceback = True
            continue
        if in_traceback and line.startswith((" ", "\t")):
            # Source lines in a traceback may quote the messages of other errors.
            continue
        signature = _matching(line)
        if signature is not None:
            found.setdefault(signature.name, line.strip())
            in_traceback = False
        elif in_traceback and EXCEPTION.match(line):
            in_traceback = False
            if not OF_TORCHRUN.search(line):
                found["exception"] = line.strip()
    return list(found.items())


def _matching(line: str) -> Signature | None:
    if HARMLESS.search(line):
        return None
    return next((signature for signature in SIGNATURES if signature.regex.search(line)), None)


@dataclass(frozen=True)
class _Suspect:
    """A possible diagnosis and its precedence; the smallest ``order`` wins."""

    order: tuple[float, ...]
    found: Diagnosis


def diagnose(result: RunResult) -> Diagnosis | None:
    """Return the most likely diagnosis of the run's failure, or None if nothing failed."""
    if not result.failures:
        return None
    suspects = [*_from_failures(result), *_from_logs(result)]
    best = min(suspects, key=lambda suspect: suspect.order).found
    return _seen_together(result, best)


def _from_failures(result: RunResult) -> Iterator[_Suspect]:
    """Yield a suspect for each failure, from the output of its rank or from the way it ended."""
    for failure in result.failures:
        lines = [each for each in result.evidence if each.node == failure.node]
        own = [each for each in lines if each.rank == failure.rank]
        # A rank's failure is explained by its own output, one of torchrun by torchrun's.
        kind, found = _best(failure, own) if failure.reason is None else (Kind.PEER, None)
        ending_kind, ending = _from_ending(failure, result)
        if found is None or failure.hung is not None or (failure.signal not in (None, 6) and kind > Kind.CAUSE):
            kind, found = ending_kind, ending
        yield _Suspect((kind, failure.time), found)


def _best(failure: Failure, lines: Sequence[MatchedLine]) -> tuple[Kind, Diagnosis | None]:
    ranked = sorted((_kind(each.signature), position) for position, each in enumerate(lines))
    if not ranked:
        return Kind.PEER, None
    kind, position = ranked[0]
    chosen = lines[position]
    evidence = tuple(each.line for each in lines if each.signature == chosen.signature)
    return kind, _from_line(chosen, failure.describe(), evidence)


def _from_logs(result: RunResult) -> Iterator[_Suspect]:
    """Yield suspects whose output shows a failure, but which were stopped before torchrun reported it."""
    failed = {(failure.node, failure.rank) for failure in result.failures}
    latest = max(failure.time for failure in result.failures)
    for each in result.evidence:
        kind = _kind(each.signature)
        if each.rank is not None and (each.node, each.rank) not in failed and kind <= Kind.DEATH:
            what = f"rank {each.rank} on {each.node} failed"
            yield _Suspect((kind, latest + 1), _from_line(each, what, (each.line,)))


def _kind(signature: str) -> Kind:
    return BY_NAME[signature].kind if signature in BY_NAME else Kind.DEATH


def _from_line(chosen: MatchedLine, what: str, evidence: tuple[str, ...]) -> Diagnosis:
    """Return the diagnosis that follows from a matched line."""
    if chosen.signature in ENDINGS:
        ending = ENDINGS[chosen.signature]
        return Diagnosis(ending.name, chosen.node, chosen.rank, what, chosen.line, ending.remedy, evidence)
    signature = BY_NAME[chosen.signature]
    match = signature.regex.search(chosen.line)
    group = next((text for text in match.groups() if text), "") if match else ""
    cause = signature.cause.replace("{0}", group)
    return Diagnosis(signature.name, chosen.node, chosen.rank, what, cause, signature.remedy, evidence)


def _from_ending(failure: Failure, result: RunResult) -> tuple[Kind, Diagnosis]:
    """Return the diagnosis, and its kind, of a failure that no line explains."""
    name, kind = "exit-code", Kind.DEATH
    if failure.hung is not None:
        # What ranks print when they are ended is no cause.
        what, told = failure.describe(), failure.message or ""
        return Kind.CAUSE, Diagnosis(
            "hang", failure.node, failure.rank, what, told, failure.hung, (), show_log=False
        )
    if failure.full_disks:
        full = BY_NAME["disk-full"]
        what = failure.describe()
        return Kind.CAUSE, Diagnosis(
            full.name, failure.node, failure.rank, what, full.cause, full.remedy, failure.full_disks
        )
    if failure.reason is not None:
        name = "node-lost" if failure.node in result.lost else "supervisor-killed"
        name = "rebooted" if failure.reason == REBOOTED else name
    elif failure.signal is not None:
        name = OF_SIGNAL.get(failure.signal, "signal")
        if name == "killed" and any(node.oom_kills for node in result.nodes.values() if node.node == failure.node):
            name = "killed-for-memory"
        kind = Kind.PEER if name == "terminated" else Kind.DEATH
    elif failure.rank is None:
        name = {126: "not-permitted", 127: "not-found"}.get(failure.exit_code or 0, "torchrun-ended")
    ending = ENDINGS[name]
    cause = failure.message or ending.cause if failure.signal is None else ending.cause
    shown = failure.reason is None
    return kind, Diagnosis(
        name, failure.node, failure.rank, failure.describe(), cause, ending.remedy, (), show_log=shown
    )


def _seen_together(result: RunResult, best: Diagnosis) -> Diagnosis:
    """Refine the diagnosis with what only the results of all nodes together show."""
    if best.signature == "closed-by-peer" and any(node.state == "ok" for node in result.nodes.values()):
        return _with_ending(best, "uneven-steps")
    if best.signature == "collective-timeout":
        numbers = {
            match.group(1)
            for each in result.evidence
            if each.signature == "collective-timeout"
            for match in [BY_NAME["collective-timeout"].regex.search(each.line)]
            if match and match.group(1)
        }
        if len(numbers) > 1:
            return _with_ending(best, "code-diverged")
    return best


def _with_ending(found: Diagnosis, name: str) -> Diagnosis:
    ending = ENDINGS[name]
    return Diagnosis(name, found.node, found.rank, found.what, ending.cause, ending.remedy, found.evidence)


def as_markdown() -> str:
    """Return all signatures and endings as the table in ``docs/troubleshooting.md``."""
    rows = ["| seen | cause | remedy |", "| --- | --- | --- |"]
    for signature in SIGNATURES:
        seen = signature.example.replace("|", "\\|")
        source = f" ({signature.source})" if signature.source else ""
        cause = signature.cause.replace(" ({0})", "").replace(" {0}", "")
        rows.append(f"| `{seen}` | {cause}{source} | {signature.remedy} |")
    for ending in ENDINGS.values():
        rows.append(f"| {ending.name.replace('-', ' ')} | {ending.cause} | {ending.remedy} |")
    return "\n".join(rows) + "\n"
