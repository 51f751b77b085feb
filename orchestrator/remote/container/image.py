"""Ask a node for its container engine, and for the image there."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.protocol.container.image import AskImage, EngineFacts
from orchestrator.protocol.shapes import either
from orchestrator.protocol.transfer import Said
from orchestrator.remote.node import Node

# Longest silence of an engine, in seconds: podman prints nothing while it unpacks a layer.
SILENCE = 1800.0
ANSWER = either(Said.from_wire, EngineFacts.from_wire)


def ask_image(node: Node, request: AskImage, heard: Callable[[str], object] = str) -> EngineFacts:
    """Return what the node reports once it has the image, or cannot get it.

    ``heard`` is called with each line of the engine. Raises ConnectionLost, NodeError.
    """
    call = node.call(request)
    try:
        while True:
            answer = call.answer(ANSWER, SILENCE)
            if isinstance(answer, EngineFacts):
                return answer
            heard(answer.line)
    finally:
        call.channel.close()
