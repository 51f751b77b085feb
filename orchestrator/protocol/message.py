"""The base class of every message: typed fields, each with the shape that checks its value on arrival.

``class Stop(Message)`` with ``grace: float = of(SECONDS)`` is a frozen dataclass to type checkers (PEP 681) and to
its users. The ``dataclasses`` module itself is not used: it compiles several methods for each class, and a node
would pay for that at every call.
"""

from __future__ import annotations

from .shapes import Misshapen, fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Mapping, TypeVar, overload

    from typing_extensions import Self, dataclass_transform

    from .shapes import Shape

    T = TypeVar("T")
else:

    def dataclass_transform(**_):
        """Return a decorator without effect; type checkers see the real one."""
        return lambda made: made


class _Required:
    """Default of a field that has no default."""


REQUIRED = _Required()


class Field:
    """Shape of one field, its value if a message lacks it, and its JSON key if that differs from its name."""

    def __init__(self, shape: Shape[Any], default: object, key: str | None) -> None:
        self.shape = shape
        self.default = default
        self.key = key


if TYPE_CHECKING:

    @overload
    def of(shape: Shape[T], *, key: str | None = None) -> T:
        """Declare a field that every message contains."""

    @overload
    def of(shape: Shape[T], *, default: T, key: str | None = None) -> T:
        """Declare a field that may be absent, because it is new or concerns few messages."""

    def of(shape: Any, *, default: Any = REQUIRED, key: str | None = None) -> Any:
        """Declare a field of this shape."""

else:

    def of(shape, default=REQUIRED, key=None):
        """Declare a field of this shape; ``key`` is its JSON key where that is not the field's name.

        A field with a ``default`` may be absent, because it is new or concerns few messages.
        """
        return Field(shape, default, key)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(of,))
class Message:
    """Values that cross the wire together. Immutable; two messages are equal if their class and values are.

    ``FIELDS``: the fields by name, inherited ones first. ``KEYS``: the JSON key of each field.
    """

    FIELDS: ClassVar[Mapping[str, Field]] = {}
    KEYS: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
        cls.FIELDS = {**cls.FIELDS, **own}
        cls.KEYS = {name: field.key or name for name, field in cls.FIELDS.items()}
        for name in own:
            delattr(cls, name)

    def __init__(self, **values: Any) -> None:
        for name, field in self.FIELDS.items():
            value = values.pop(name, field.default)
            if value is REQUIRED:
                raise TypeError("%s: no %s" % (type(self).__name__, name))
            self.__dict__[name] = value
        if values:
            raise TypeError("%s: unknown: %s" % (type(self).__name__, ", ".join(values)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("%s is immutable" % type(self).__name__)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.__dict__.values())))

    def __repr__(self) -> str:
        return "%s(%s)" % (type(self).__name__, ", ".join("%s=%r" % pair for pair in self.__dict__.items()))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some values changed."""
        return type(self)(**dict(self.__dict__, **changes))

    @classmethod
    def from_wire(cls, value: object, where: str = "message") -> Self:
        """Return the message that a JSON value holds; ``where`` names the value in errors.

        Unknown keys are ignored, because a later version may send more. Raises Misshapen, which names the key, if
        the value is not such a message.
        """
        if not isinstance(value, dict):
            fail(where, value, "an object")
        found = {}
        for name, field in cls.FIELDS.items():
            key = cls.KEYS[name]
            if key in value:
                found[name] = field.shape(value[key], where + "." + key)
            elif field.default is REQUIRED:
                raise Misshapen("%s: expected the key %s" % (where, key))
        return cls(**found)

    def to_wire(self) -> dict[str, object]:
        """Return the JSON object that ``from_wire`` reads."""
        return {self.KEYS[name]: plain(value) for name, value in self.__dict__.items()}


def plain(value: object) -> object:
    """Return a value as JSON represents it: messages as objects, tuples as lists."""
    if isinstance(value, Message):
        return value.to_wire()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def tagged(key: str, kinds: Mapping[str, type[Message]]) -> Shape[Any]:
    """Make the shape of one of several messages, chosen by the value under ``key``."""

    def check(value: object, where: str) -> Message:
        if not isinstance(value, dict):
            fail(where, value, "an object")
        kind = value.get(key)
        if not isinstance(kind, str) or kind not in kinds:
            fail("%s.%s" % (where, key), kind, "one of " + ", ".join(kinds))
        return kinds[kind].from_wire(value, where)

    return check
