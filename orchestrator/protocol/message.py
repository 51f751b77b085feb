"""The base of every message: typed fields, each with the shape that checks it when it comes in.

``class Stop(Message)`` with ``grace: float = of(SECONDS)`` is a frozen dataclass to type checkers (PEP 681) and to
whoever uses it. The ``dataclasses`` module itself is not used: it compiles several methods for each class, which a
node would pay for at every call.
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
        """Tell type checkers what ``of`` is."""
        return lambda made: made


class _Required:
    """The default of a field that has none."""


REQUIRED = _Required()


class Field:
    """The shape of one field, its value where a message does not name it, and its key if that is no Python
    name."""

    def __init__(self, shape: Shape[Any], default: object, key: str | None) -> None:
        self.shape = shape
        self.default = default
        self.key = key


if TYPE_CHECKING:

    @overload
    def of(shape: Shape[T], *, key: str | None = None) -> T:
        """A field that every message names."""

    @overload
    def of(shape: Shape[T], *, default: T, key: str | None = None) -> T:
        """A field that may be absent: it is new, or concerns few messages."""

    def of(shape: Any, *, default: Any = REQUIRED, key: str | None = None) -> Any:
        """A field of this shape."""

else:

    def of(shape, default=REQUIRED, key=None):
        """A field of this shape. One with a ``default`` may be absent: it is new, or concerns few messages."""
        return Field(shape, default, key)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(of,))
class Message:
    """Values that cross the wire together. Immutable; equal if class and values are."""

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
        """A copy with some values changed."""
        return type(self)(**dict(self.__dict__, **changes))

    @classmethod
    def from_wire(cls, value: object, where: str = "message") -> Self:
        """The message of a JSON value; raises Misshapen, which names the key, if it is none.

        Keys that are not known are left out: a later version may send more.
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
        """The JSON object that ``from_wire`` reads."""
        return {self.KEYS[name]: plain(value) for name, value in self.__dict__.items()}


def plain(value: object) -> object:
    """A value as JSON has it: messages as objects, tuples as lists."""
    if isinstance(value, Message):
        return value.to_wire()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def tagged(key: str, kinds: Mapping[str, type[Message]]) -> Shape[Any]:
    """One of several messages; the value under ``key`` says which."""

    def check(value: object, where: str) -> Message:
        if not isinstance(value, dict):
            fail(where, value, "an object")
        kind = value.get(key)
        if not isinstance(kind, str) or kind not in kinds:
            fail("%s.%s" % (where, key), kind, "one of " + ", ".join(kinds))
        return kinds[kind].from_wire(value, where)

    return check
