"""RunResult -> what went wrong, where, and what helps.

One fault reads differently on each node, so all of them are looked at together. What names a cause beats a
signal or an exception, that beats a network error, that a timeout, and that what merely follows from another
rank's end; among equals the earlier one counts.
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
# torch writes it before each line of a traceback once a process group is there.
RANK_PREFIX = re.compile(r"^\[rank\d+\]: ?")
TRACEBACK = "Traceback (most recent call last):"
# The names that torchrun's own failures have; they only repeat what a worker did.
OF_TORCHRUN = re.compile(r"ChildFailedError|SignalException|SIGTERM|signal 15")


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong first. ``rank`` is None where a node or torchrun is to blame.

    ``evidence`` are the lines it was read from; ``show_log`` tells whether that rank's last lines say more.
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
        """The event that records it."""
        return Diagnosed(time=time, **asdict(self))


@dataclass(frozen=True)
class Ending:
    """How a process ended, where no line of output says more."""

    name: str
    cause: str
    remedy: str


ENDINGS: Mapping[str, Ending] = {
    ending.name: ending
    for ending in (
        Ending(
            "killed-for-memory",
            "the kernel killed it because the node's memory ran out",
            "lower the batch size or the number of loader workers, or run fewer processes per node",
        ),
        Ending(
            "killed",
            "somebody or something sent it SIGKILL; the kernel counts no out-of-memory kill since the run began",
            "look at the node's kernel log, its container's memory limit, and who else works there",
        ),
        Ending(
            "segmentation-fault",
            "a native library crashed",
            "run with --env PYTHONFAULTHANDLER=1 to see where; compare torch, CUDA and driver with other nodes",
        ),
        Ending(
            "bus-error",
            "memory that was promised was not there, most often because /dev/shm is full",
            "give /dev/shm more room there (docker: --shm-size), or use fewer loader workers",
        ),
        Ending("aborted", "a native library gave up", "its last lines say why"),
        Ending("terminated", "something outside of orch asked it to end", "see who sent SIGTERM on that node"),
        Ending("signal", "a signal ended it", "see what sent it on that node"),
        Ending("exception", "the script raised an exception", "its traceback is in the log"),
        Ending("exit-code", "the script ended with this exit code and no traceback", "its last lines may say why"),
        Ending(
            "not-found", "the program was not found on the node (exit code 127)", "correct python: for this host"
        ),
        Ending(
            "not-permitted",
            "the program may not be executed on the node (exit code 126)",
            "mend its mode there, or correct python: for this host",
        ),
        Ending("torchrun-ended", "torchrun itself failed", "its own words are in torchrun.log"),
        Ending(
            "supervisor-killed",
            "orch's supervisor on the node was killed, so the run was ended there",
            "start it again; see who kills processes on that node",
        ),
        Ending(
            "rebooted",
            "the machine was started anew in the middle of the run",
            "start the run again; last -x reboot and the kernel's log of the boot before say why",
        ),
        Ending(
            "node-lost",
            "the machine is off, or its network is down",
            "when it is back, orch stop RUN ends what may still run there; --max-restarts goes on with a spare",
        ),
        Ending(
            "uneven-steps",
            "one rank had finished while another still waited for it: they made different numbers of steps",
            "give all ranks the same number of batches (drop_last=True, or DistributedDataParallel's join())",
        ),
        Ending(
            "code-diverged",
            "ranks wait in different collectives: their code took different ways",
            "look for a branch that only some ranks take; the rank that is furthest behind is the suspect",
        ),
    )
}
OF_SIGNAL = {6: "aborted", 7: "bus-error", 9: "killed", 11: "segmentation-fault", 15: "terminated"}


def scan(text: str) -> list[tuple[str, str]]:
    """``(signature, line)`` for what the end of a log tells: each signature once, by its first line.

    A traceback that matches none counts as ``exception``, by its last line.
    """
    found: dict[str, str] = {}
    in_traceback = False
    for raw in text.splitlines():
        line = RANK_PREFIX.sub("", raw.rstrip())[:LONGEST_LINE]
        if TRACEBACK in line:
            in_traceback = True
            continue
        if in_traceback and line.startswith((" ", "\t")):
            # Source lines quote messages, of errors that need not be this one.
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
    """Something that may be the cause, and how it ranks."""

    order: tuple[float, ...]
    found: Diagnosis


def diagnose(result: RunResult) -> Diagnosis | None:
    """The most likely cause of a run's failure; None if nothing failed."""
    if not result.failures:
        return None
    suspects = [*_from_failures(result), *_from_logs(result)]
    best = min(suspects, key=lambda suspect: suspect.order).found
    return _seen_together(result, best)


def _from_failures(result: RunResult) -> Iterator[_Suspect]:
    """Each failure, as what its rank's output or its ending makes of it."""
    for failure in result.failures:
        lines = [each for each in result.evidence if each.node == failure.node]
        own = [each for each in lines if each.rank == failure.rank]
        # A rank's output says most; where torchrun itself failed, only its own words do.
        kind, found = _best(failure, own) if failure.reason is None else (Kind.PEER, None)
        ending_kind, ending = _ended(failure, result)
        if found is None or (failure.signal not in (None, 6) and kind > Kind.CAUSE):
            kind, found = ending_kind, ending
        yield _Suspect((kind, failure.time), found)


def _best(failure: Failure, lines: Sequence[MatchedLine]) -> tuple[Kind, Diagnosis | None]:
    ranked = sorted((_kind(each.signature), position) for position, each in enumerate(lines))
    if not ranked:
        return Kind.PEER, None
    kind, position = ranked[0]
    chosen = lines[position]
    evidence = tuple(each.line for each in lines if each.signature == chosen.signature)
    return kind, _told(chosen, failure.describe(), evidence)


def _from_logs(result: RunResult) -> Iterator[_Suspect]:
    """Ranks that were stopped before torchrun could say that they had failed: their output tells."""
    failed = {(failure.node, failure.rank) for failure in result.failures}
    latest = max(failure.time for failure in result.failures)
    for each in result.evidence:
        kind = _kind(each.signature)
        if each.rank is not None and (each.node, each.rank) not in failed and kind <= Kind.DEATH:
            what = f"rank {each.rank} on {each.node} failed"
            yield _Suspect((kind, latest + 1), _told(each, what, (each.line,)))


def _kind(signature: str) -> Kind:
    return BY_NAME[signature].kind if signature in BY_NAME else Kind.DEATH


def _told(chosen: MatchedLine, what: str, evidence: tuple[str, ...]) -> Diagnosis:
    """The diagnosis of a line."""
    if chosen.signature in ENDINGS:
        ending = ENDINGS[chosen.signature]
        return Diagnosis(ending.name, chosen.node, chosen.rank, what, chosen.line, ending.remedy, evidence)
    signature = BY_NAME[chosen.signature]
    match = signature.regex.search(chosen.line)
    group = next((text for text in match.groups() if text), "") if match else ""
    cause = signature.cause.replace("{0}", group)
    return Diagnosis(signature.name, chosen.node, chosen.rank, what, cause, signature.remedy, evidence)


def _ended(failure: Failure, result: RunResult) -> tuple[Kind, Diagnosis]:
    """The diagnosis of an ending that no line explains."""
    name, kind = "exit-code", Kind.DEATH
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
    """What only a look at all nodes shows."""
    if best.signature == "closed-by-peer" and any(node.state == "ok" for node in result.nodes.values()):
        return _as(best, "uneven-steps")
    if best.signature == "collective-timeout":
        numbers = {
            match.group(1)
            for each in result.evidence
            if each.signature == "collective-timeout"
            for match in [BY_NAME["collective-timeout"].regex.search(each.line)]
            if match and match.group(1)
        }
        if len(numbers) > 1:
            return _as(best, "code-diverged")
    return best


def _as(found: Diagnosis, name: str) -> Diagnosis:
    ending = ENDINGS[name]
    return Diagnosis(name, found.node, found.rank, found.what, ending.cause, ending.remedy, found.evidence)


def as_markdown() -> str:
    """All that can be told, as the table of ``docs/troubleshooting.md``."""
    rows = ["| seen | cause | remedy |", "| --- | --- | --- |"]
    for signature in SIGNATURES:
        seen = signature.example.replace("|", "\\|")
        source = f" ({signature.source})" if signature.source else ""
        cause = signature.cause.replace(" {0}", "").replace("({0})", "").replace(": {0}", "")
        rows.append(f"| `{seen}` | {cause}{source} | {signature.remedy} |")
    for ending in ENDINGS.values():
        rows.append(f"| {ending.name.replace('-', ' ')} | {ending.cause} | {ending.remedy} |")
    return "\n".join(rows) + "\n"
