"""What a node answers when it will not do what it was asked."""

from __future__ import annotations

from .message import Message, of
from .shapes import text


class Refusal(Message):
    """Why, in words; ``kind`` is the word that the control side decides by."""

    error: str = of(text(1 << 16))
    kind: str = of(text(64))


class Refused(Exception):
    """The node will not do this; it answers with the ``Refusal``."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
