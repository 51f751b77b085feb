"""The control's side of ``node/store/environment.py``: one node that builds an environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator import errors
from orchestrator.core.launch.environment import Environment
from orchestrator.protocol import frames
from orchestrator.protocol.shapes import either
from orchestrator.protocol.transfer import Base, BuildEnvironment, BuildFailed, Ready, Said, Wheels
from orchestrator.remote.node import THERE_CODE, Node, in_home
from orchestrator.remote.relay import as_sync_error

# How long a build may say nothing: pip resolves and unpacks in silence.
BUILD_TIMEOUT = 1800.0
ANSWER = either(Ready.from_wire, Base.from_wire)
BUILDING = either(Said.from_wire, either(Ready.from_wire, BuildFailed.from_wire))


def has_environment(node: Node, workdir: str, environment: Environment) -> bool:
    """Whether it is there; it is then the one used last. One round trip, and no Python on the node."""
    folder = in_home(environment.folder(workdir))
    line = f"test -x {folder}/bin/python && touch -c {folder}/.orch-ready && exit {THERE_CODE}"
    return node.ends_with(line, THERE_CODE)


@dataclass(frozen=True)
class BuildFailure:
    """A build that failed: the last words of pip or uv, and whether it seems to lack a way to the packages."""

    words: tuple[str, ...]
    offline: bool = False


class Build:
    """A node that was asked for an environment. ``ready``: it is there; else ``kind`` is what wheels must fit."""

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
        self.place: str | None = None
        self.kind = ("", "", "")
        if isinstance(answer, Base):
            self.place = answer.place
            self.kind = (answer.version, answer.machine, answer.libc)

    def run(self, wheels: str | None, heard: Callable[[str], object]) -> BuildFailure | None:
        """Let it build, from a folder of wheels on the node or from what it reaches; None if it succeeded.

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
        """Nothing more is wanted of it."""
        self._call.channel.close()
