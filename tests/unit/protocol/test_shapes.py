"""Shapes, frames and the base of messages: the exact value that gets through, and the exact line for one that does not."""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.protocol import frames
from orchestrator.protocol.events import from_line
from orchestrator.protocol.facts import Parts
from orchestrator.protocol.message import Message, of, plain, tagged
from orchestrator.protocol.run import Stop
from orchestrator.protocol.shapes import (
    MOST,
    Misshapen,
    decoded,
    either,
    flag,
    inflated,
    many,
    maybe,
    number,
    one_of,
    row,
    table,
    text,
    whole,
    word,
)

DIGIT = whole(0, 9)
LONG = "x" * 80
NAN, INFINITE = float("nan"), float("inf")
SHAPES = ("whole", "number", "flag", "text", "word", "one_of", "maybe", "many", "row", "table", "either")


def accepted() -> dict[str, Any]:
    """Return by shape: the shape, a value, and what the shape makes of it."""
    return {
        "whole": [(DIGIT, 0, 0), (DIGIT, 9, 9), (whole(), MOST, MOST), (whole(), 0, 0)],
        "number": [(number(), 1.5, 1.5), (number(), -1e15, -1e15), (number(0, 3), 0, 0), (number(0, 3), 3, 3)],
        "flag": [(flag, True, True), (flag, False, False)],
        "text": [(text(3), "abc", "abc"), (text(), "", ""), (text(), "x" * 4096, "x" * 4096)],
        "word": [(word("[ab]+"), "abba", "abba"), (word("a+"), "a" * 4096, "a" * 4096)],
        "one_of": [(one_of("a", 1), 1, 1), (one_of("a", 1), "a", "a"), (one_of(None), None, None)],
        "maybe": [(maybe(DIGIT), None, None), (maybe(DIGIT), 0, 0)],
        "many": [(many(DIGIT, 2), [1, 2], (1, 2)), (many(DIGIT), (), ()), (many(DIGIT), [1] * 4096, (1,) * 4096)],
        "row": [(row(DIGIT, text()), [1, "a"], (1, "a")), (row(DIGIT), (1,), (1,))],
        "table": [
            (table(DIGIT, 2), {"a": 1, "b": 2}, {"a": 1, "b": 2}),
            (table(flag), {"x" * 256: True}, {"x" * 256: True}),
            (table(flag), {str(n): True for n in range(4096)}, {str(n): True for n in range(4096)}),
            (table(DIGIT, key=word("[0-9]")), {"7": 1}, {"7": 1}),
        ],
        "either": [(either(DIGIT, text()), 1, 1), (either(DIGIT, text()), "a", "a")],
    }


def refused() -> dict[str, Any]:
    """Return by shape: the shape, a value, and the line that refuses it."""
    return {
        "whole": [
            (DIGIT, 10, "k: 10: expected a whole number from 0 to 9"),
            (DIGIT, -1, "k: -1: expected a whole number from 0 to 9"),
            (DIGIT, True, "k: true: expected a whole number from 0 to 9"),
            (DIGIT, 1.0, "k: 1.0: expected a whole number from 0 to 9"),
            (whole(), -1, f"k: -1: expected a whole number from 0 to {MOST}"),
            (whole(), MOST + 1, f"k: {MOST + 1}: expected a whole number from 0 to {MOST}"),
        ],
        "number": [
            (number(), "1", 'k: "1": expected a number'),
            (number(), False, "k: false: expected a number"),
            (number(), NAN, "k: NaN: expected a number from -1e+15 to 1e+15"),
            (number(), INFINITE, "k: Infinity: expected a number from -1e+15 to 1e+15"),
            (number(), 1.1e15, "k: 1100000000000000.0: expected a number from -1e+15 to 1e+15"),
            (number(0, 3), 3.5, "k: 3.5: expected a number from 0 to 3"),
            (number(0, 3), -0.5, "k: -0.5: expected a number from 0 to 3"),
        ],
        "flag": [(flag, 1, "k: 1: expected true or false"), (flag, None, "k: null: expected true or false")],
        "text": [
            (text(3), "abcd", 'k: "abcd": expected text of at most 3 characters'),
            (text(), 3, "k: 3: expected text of at most 4096 characters"),
            (text(), "x" * 4097, f'k: "{"x" * 56}...: expected text of at most 4096 characters'),
        ],
        "word": [
            (word("[ab]+"), "abc", 'k: "abc": expected text like [ab]+'),
            (word("a"), "a\n", 'k: "a\\n": expected text like a'),
            (word("a*"), 1, "k: 1: expected text like a*"),
            (word("a+"), "a" * 4097, f'k: "{"a" * 56}...: expected text like a+'),
        ],
        "one_of": [
            (one_of("a", 1), True, "k: true: expected one of a, 1"),
            (one_of("a", 1), "b", 'k: "b": expected one of a, 1'),
        ],
        "maybe": [(maybe(DIGIT), 10, "k: 10: expected a whole number from 0 to 9")],
        "many": [
            (many(DIGIT, 2), [1, 2, 3], "k: list: expected a list of at most 2"),
            (many(DIGIT), "12", 'k: "12": expected a list of at most 4096'),
            (many(DIGIT), [1, 12], "k[1]: 12: expected a whole number from 0 to 9"),
            (many(flag), [True] * 4097, "k: list: expected a list of at most 4096"),
        ],
        "row": [
            (row(DIGIT, DIGIT), [1], "k: list: expected a list of 2"),
            (row(DIGIT), {"0": 1}, "k: dict: expected a list of 1"),
            (row(DIGIT, flag), [1, 2], "k[1]: 2: expected true or false"),
        ],
        "table": [
            (table(DIGIT, 1), {"a": 1, "b": 2}, "k: dict: expected an object of at most 1 keys"),
            (table(DIGIT), [1], "k: list: expected an object of at most 4096 keys"),
            (table(DIGIT), {LONG: 10}, f"k.{LONG[:40]}: 10: expected a whole number from 0 to 9"),
            (table(DIGIT, key=word("[0-9]")), {"a": 1}, 'k: "a": expected text like [0-9]'),
            (table(flag), {"x" * 257: True}, f'k: "{"x" * 56}...: expected text of at most 256 characters'),
            (table(flag), {str(n): True for n in range(4097)}, "k: dict: expected an object of at most 4096 keys"),
        ],
        "either": [(either(DIGIT, text(1)), "ab", 'k: "ab": expected text of at most 1 characters')],
    }


@pytest.mark.parametrize("name", SHAPES)
def test_a_value_of_the_shape_gets_through(name: str) -> None:
    for shape, value, found in accepted()[name]:
        assert shape(value, "k") == found and type(shape(value, "k")) is type(found)


@pytest.mark.parametrize("name", SHAPES)
def test_another_value_is_refused_with_its_place_and_what_was_expected(name: str) -> None:
    for shape, value, said in refused()[name]:
        with pytest.raises(Misshapen) as raised:
            shape(value, "k")
        assert str(raised.value) == said


@pytest.mark.parametrize(
    ("payload", "limits", "said"),
    [
        (b"[1,2]", (4, 9), "5 bytes: expected at most 4"),
        (b'[1,{"a":[2]}]', (99, 3), "expected at most 3 values"),
        (b"[NaN]", (99, 9), "NaN: expected a number"),
        (b"[-Infinity]", (99, 9), "-Infinity: expected a number"),
        (b"1" * 21, (99, 9), "a number of 21 digits: expected at most 20"),
        (b"[" * 100_000, (1 << 20, 200_000), "not JSON: "),
        (b"{", (99, 9), "not JSON: Expecting property name enclosed in double quotes"),
        (b"\xff", (99, 9), "not JSON: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_json_is_bounded_before_it_is_read(payload: bytes, limits: tuple[int, int], said: str) -> None:
    with pytest.raises(Misshapen) as raised:
        decoded(payload, *limits)
    assert str(raised.value).startswith(said)


def test_json_up_to_its_limits_is_read() -> None:
    assert decoded(b'[1,{"a":[2]}]', 13, 4) == [1, {"a": [2]}]
    assert decoded(b"1" * 20) == int("1" * 20)


def test_deflated_data_may_not_swell() -> None:
    packed = zlib.compress(b"x" * 100)
    assert inflated(packed, 100) == b"x" * 100
    for payload, limit, said in (
        (packed, 99, "damaged, or more than 99 bytes"),
        (packed[:-1], 100, "damaged, or more than 100 bytes"),
        (b"no zlib", 100, "damaged: not deflated"),
    ):
        with pytest.raises(Misshapen) as raised:
            inflated(payload, limit)
        assert str(raised.value) == said


class Pair(Message):
    """A message for these tests."""

    first: int = of(DIGIT)
    second: str | None = of(maybe(text()), default=None, key="2nd")


class Other(Pair):
    """A message with one more field."""

    third: int = of(DIGIT, default=3)


def test_a_message_has_the_fields_of_its_class_and_of_those_above() -> None:
    assert not hasattr(Pair, "first") and list(Pair.FIELDS) == ["first", "second"]
    assert Other.KEYS == {"first": "first", "second": "2nd", "third": "third"}
    assert Other(first=1).to_wire() == {"first": 1, "2nd": None, "third": 3}
    assert Other.from_wire({"first": 1, "2nd": "b"}) == Other(first=1, second="b")
    assert repr(Pair(first=1, second="b")) == "Pair(first=1, second='b')"


def test_messages_are_equal_if_class_and_values_are() -> None:
    assert Pair(first=1) == Pair(first=1) and hash(Pair(first=1)) == hash(Pair(first=1))
    assert Pair(first=1) != Pair(first=2) and Pair(first=3) != Other(first=3)
    assert plain((Pair(first=1), {"a": (2,)})) == [{"first": 1, "2nd": None}, {"a": [2]}]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "k: list: expected an object"),
        ({}, "k.kind: null: expected one of pair, other"),
        ({"kind": 1}, "k.kind: 1: expected one of pair, other"),
        ({"kind": "none"}, 'k.kind: "none": expected one of pair, other'),
        ({"kind": "pair", "first": 10}, "k.first: 10: expected a whole number from 0 to 9"),
        ({"kind": "pair"}, "k: expected the key first"),
    ],
)
def test_a_tag_tells_which_of_several_messages_a_value_is(value: object, said: str) -> None:
    shape = tagged("kind", {"pair": Pair, "other": Other})
    assert shape({"kind": "other", "first": 1}, "k") == Other(first=1)
    with pytest.raises(Misshapen) as raised:
        shape(value, "k")
    assert str(raised.value) == said


def test_a_part_of_the_facts_that_failed_says_why() -> None:
    parts = Parts.from_wire({"home": {"error": "no answer"}, "unanswered": {"shm": "too slow"}})
    assert parts.home is None and parts.unanswered == {"home": "no answer", "shm": "too slow"}
    with pytest.raises(Misshapen, match=r"^there: list: expected an object$"):
        Parts.from_wire([], "there")
    with pytest.raises(Misshapen, match=r"^there\.locks: 1: expected a list of at most 4096$"):
        Parts.from_wire({"locks": 1}, "there")


def test_a_line_of_events_may_hold_what_is_no_text() -> None:
    line = json.dumps({"event": "node_lost", "time": 1, "node": "a", "reason": "x\udcff"}, ensure_ascii=False)
    assert from_line(line).to_wire()["reason"] == "x?"
    with pytest.raises(Misshapen, match=r"^event\.event: \"no\": expected one of "):
        from_line('{"event": "no"}')
    long = "y" * (1 << 20)
    with pytest.raises(Misshapen, match=r"^event\."):
        from_line(json.dumps({"event": "node_lost", "time": 1, "node": "a", "reason": long}))


def test_streams_are_named_by_worker_restart_and_kind() -> None:
    assert frames.stream_name(3, 0, "stdout") == "3.stdout"
    assert frames.stream_name(3, 2, "stderr") == "3.2.stderr"


def test_frames_are_these_bytes() -> None:
    assert frames.preamble("ab") == b"\0orch:ab\0"
    assert frames.json_frame({"a": 1}) == b'J\0\0\0\x07{"a":1}'
    assert frames.message_frame(Pair(first=1)) == frames.json_frame({"first": 1, "2nd": None})
    assert frames.data_frame(b"xyz") == b"D\0\0\0\x03xyz"
    assert frames.log_frame(2, 7, b"hi") == b"L\0\0\0\x0c\0\x02\0\0\0\0\0\0\0\x07hi"


@given(
    st.lists(
        st.tuples(st.sampled_from([frames.JSON, frames.DATA, frames.LOG]), st.binary(max_size=40)), max_size=6
    ),
    st.lists(st.integers(0, 300), max_size=8),
    st.binary(max_size=20),
)
def test_frames_come_out_however_their_bytes_arrive(sent: Any, cuts: list[int], noise: bytes) -> None:
    stream = (
        noise + frames.preamble("n0") + b"".join(frames.HEAD.pack(kind, len(data)) + data for kind, data in sent)
    )
    splitter, found, begun = frames.Splitter("n0"), [], 0
    assert not splitter.started
    for cut in [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]:
        found += splitter.feed(stream[begun:cut])
        begun = cut
    assert found == sent and splitter.started and splitter.pending == 0 and splitter.noise == noise


def test_what_is_no_frame_is_said_at_once() -> None:
    with pytest.raises(frames.WireError, match=r"^not a frame: b'X"):
        frames.Splitter().feed(b"X\0\0\0\x01abc")
    for kind, most in ((frames.DATA, frames.MOST_OF_NODES), (frames.LOG, frames.MOST_OF_LOGS)):
        splitter = frames.Splitter()
        assert splitter.feed(frames.HEAD.pack(kind, most)) == [] and splitter.pending == frames.HEAD.size
        with pytest.raises(frames.WireError, match="not a frame"):
            frames.Splitter().feed(frames.HEAD.pack(kind, most + 1))
    splitter = frames.Splitter("n0")
    assert splitter.feed(b"welcome " * 1000) == [] and len(splitter.noise) == 4096
    with pytest.raises(frames.WireError, match=r"^\d+ bytes without a preamble: b'welcome "):
        splitter.feed(b"x" * frames.MOST_NOISE)


def read(data: bytes, *what: Any, **how: Any) -> Any:
    """Call a reader of frames on a pipe that holds ``data`` and then ends."""
    inlet, outlet = os.pipe()
    try:
        assert os.write(outlet, data) == len(data)
        os.close(outlet)
        return [reader(inlet, *more, **how) for reader, *more in what]
    finally:
        os.close(inlet)


def test_frames_are_read_from_a_pipe() -> None:
    stop = Stop(run_id="r", grace=3.0)
    packed = zlib.compress(json.dumps(stop.to_wire()).encode())
    assert read(frames.message_frame(stop), (frames.receive, Stop), (frames.receive, Stop)) == [stop, None]
    assert read(frames.data_frame(packed), (frames.receive, Stop, True)) == [stop]
    assert read(frames.data_frame(b"xyz"), (frames.read_frame,), (frames.read_frame,)) == [(b"D", b"xyz"), None]
    for half in (frames.data_frame(b"xyz")[:-1], frames.data_frame(b"xyz")[:-3], b"D\0"):
        with pytest.raises(frames.WireError, match=r"^the connection ended within a frame$"):
            read(half, (frames.read_frame,))
    for head in (struct.pack(">cI", b"X", 1), struct.pack(">cI", b"D", frames.MAX_FRAME + 1)):
        with pytest.raises(frames.WireError, match=r"^not a frame: "):
            read(head, (frames.read_frame,))


def test_messages_are_written_whole() -> None:
    inlet, outlet = os.pipe()
    try:
        frames.send(outlet, Stop(run_id=None, grace=1.0))
        frames.write_all(outlet, b"rest")
        os.close(outlet)
        assert os.read(inlet, 4096) == frames.message_frame(Stop(run_id=None, grace=1.0)) + b"rest"
    finally:
        os.close(inlet)
