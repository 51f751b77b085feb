"""A process that runs in a container of the node's engine."""

from __future__ import annotations

from ..message import Message, of
from ..shapes import many, text
from ..terms import PATH


class Contained(Message):
    """The container of a process, beside the command line that starts it.

    ``name``: the container's name, which no other container has.
    ``remove``: command line that ends and removes the container, and does nothing if there is none; empty if the
    engine keeps no record of containers.
    ``folders``: folders that the container mounts, to be made before it starts; ``~`` is expanded.
    """

    name: str = of(text(256))
    remove: tuple[str, ...] = of(many(text(), 64), default=())
    folders: tuple[str, ...] = of(many(PATH, 256), default=())
