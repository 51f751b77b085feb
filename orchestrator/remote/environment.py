"""The control machine's side of ``node/store/environment.py``: a node that builds an environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator import errors
from orchestrator.core.launch.environment import Environment
from orchestrator.protocol import frames
from orchestrator.protocol.shapes import either
from orchestrator.protocol.transfer import Base, BuildEnvironment, BuildFailed, Ready, Said, Wheels
from orchestrator.remote.node import PRESENT_CODE, Node, in_home
from orchestrator.remote.relay import as_sync_error

# Longest silence of a build, in seconds: pip prints nothing while it resolves and unpacks.
BUILD_TIMEOUT = 1800.0
ANSWER = either(Ready.from_wire, Base.from_wire)
BUILDING = either(Said.from_wire, either(Ready.from_wire, BuildFailed.from_wire))


def has_environment(node: Node, workdir: str, environment: Environment) -> bool:
    """Return whether the node has the environment, and mark it as used last. One round trip, no Python."""
    folder = in_home(environment.folder(workdir))
    line = f"test -x {folder}/bin/python && touch -c {folder}/.orch-ready && exit {PRESENT_CODE}"
    return node.ends_with(line, PRESENT_CODE)


@dataclass(frozen=True)
class BuildFailure:
    """A failed build: the last output of pip or uv, and whether the node seems unable to reach the packages."""

    words: tuple[str, ...]
    offline: bool = False


class Build:
    """A request for an environment. ``ready``: the node has it; else ``kind`` is what wheels must fit."""

    def __init__(self, node: Node, workdir: str, environment: Environment) -> None:
        self.node = node
        self.workdir = workdir
        request = BuildEnvironment(
            workdir=workdir,
            key=environment.key,
            requirements=environment.requirements,
            python=environment.python,
        )
        self._call = node.call(request)
        try:
            answer = self._call.answer(ANSWER, BUILD_TIMEOUT)
        except errors.OrchError as error:
            self.close()
            raise as_sync_error(error) from None
        self.ready = isinstance(answer, Ready)
        self.disk_id: str | None = None
        self.kind = ("", "", "")
        if isinstance(answer, Base):
            self.disk_id = answer.disk_id
            self.kind = (answer.version, answer.machine, answer.libc)

    def run(self, wheels: str | None, heard: Callable[[str], object]) -> BuildFailure | None:
        """Build the environment, from a folder of wheels on the node or from an index; return None on success.

        ``heard`` is called with each line of pip or uv. Raises SyncError, ConnectionLost.
        """
        try:
            self._call.channel.write(frames.message_frame(Wheels(wheels=wheels)))
            while True:
                answer = self._call.answer(BUILDING, BUILD_TIMEOUT)
                if isinstance(answer, Ready):
                    return None
                if isinstance(answer, BuildFailed):
                    return BuildFailure(answer.failed, answer.offline)
                heard(answer.line)
        except errors.OrchError as error:
            raise as_sync_error(error) from None
        finally:
            self.close()

    def close(self) -> None:
        """End the call."""
        self._call.channel.close()
