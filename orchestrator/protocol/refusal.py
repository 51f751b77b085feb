"""The answer of a node that refuses a request."""

from __future__ import annotations

from .message import Message, of
from .shapes import text


class Refusal(Message):
    """Sent by a node in place of any answer when it cannot carry out the request.

    ``error``: the reason, for the user. ``kind``: the word by which the control side chooses the error class, for
    example ``busy`` or ``tree``.
    """

    error: str = of(text(1 << 16))
    kind: str = of(text(64))


class Refused(Exception):
    """The node refuses the request; the node program answers with a ``Refusal`` of this text and kind."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
