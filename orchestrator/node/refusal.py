"""The one error a verb raises on purpose."""


class Refused(Exception):
    """The node will not do this. ``kind`` is a word the control side decides by, ``details`` its facts."""

    def __init__(self, message, kind, details=None):
        super().__init__(message)
        self.kind = kind
        self.details = details or {}
