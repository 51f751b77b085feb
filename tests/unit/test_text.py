"""Text from outside: what a terminal may get, how a rank's pieces become lines, and which queries are masked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.text.escapes import harmless, visible
from orchestrator.core.text.lines import LONGEST_LINE, LineAssembler
from orchestrator.core.text.secret import masked, masked_words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tab\tline\nGrüße 数", "tab\tline\nGrüße 数"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb\x00\x07\x7f", r"a\rb\x00\x07\x7f"),
        ("\x85\x9b2J", r"\x85\x9b2J"),
        ("\u202egpj.exe\u2066\u2069", r"\u202egpj.exe\u2066\u2069"),
        ("\udc80", r"\udc80"),
    ],
)
def test_controls_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (b"loss 0.5\n", b"loss 0.5\n"),
        (b"\x1b[31mred\x1b[0m", b"\x1b[31mred\x1b[0m"),
        ("Grüße\u00a0\n".encode(), "Grüße\u00a0\n".encode()),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\"),
        (b"a\x1b]52;c;aGk=\x07b", b"ab"),
        (b"a\x1b]0;title\x1b\\b", b"ab"),
        (b"a\xc2\x9d52;c;aGk=\x07b", b"ab"),
        (b"a\xc2\x9d2;title\nb", b"a\nb"),
        (b"a\x1b]52;c;aGk=\nb", b"a\nb"),
        (b"a\x1bktitle\x1b\\b", b"ab"),
        (b"a\x1bPtmux;b", b"ab"),
        (b"a\xc2\x90tmux;b", b"ab"),
        (b"\x1b]0;one\x07a\x1b]2;two\x07b", b"ab"),
    ],
)
def test_output_sets_no_clipboard_and_no_title_but_keeps_its_colours(data: bytes, left: bytes) -> None:
    assert harmless(data) == left


def test_lines_get_the_prefix_once_they_are_complete() -> None:
    lines = LineAssembler(b"[a] ")
    assert lines.feed(b"on") == b""
    assert lines.feed(b"e") == b""
    assert lines.feed(b"!\ntwo\n\nthr") == b"[a] one!\n[a] two\n[a] \n"
    assert lines.feed(b"ee\n") == b"[a] three\n"
    assert lines.feed(b"\n") == b"[a] \n"
    assert lines.flush() == b""


def test_an_unfinished_line_comes_out_once_when_flushed() -> None:
    lines = LineAssembler(b"[a] ")
    assert lines.flush() == b""
    lines.feed(b"first\nwhole\xff\rpart")
    assert lines.flush() == b"[a] part\n"
    assert lines.flush() == b""
    assert lines.feed(b"next\n") == b"[a] next\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"step 1 of 3\rstep 2 of 3", b"step 2 of 3"),
        (b"10%\r20%\r30%", b"30%"),
        (b"10%\r20%\r", b"20%"),
        (b"windows\r", b"windows"),
        (b"\r\r", b""),
        (b"\xff\xfe", b"\xff\xfe"),
    ],
)
def test_of_a_line_that_redraws_itself_the_last_text_is_kept(line: bytes, shown: bytes) -> None:
    lines = LineAssembler(b"> ")
    assert lines.feed(b"a\rb\n" + line + b"\nplain\n") == b"> b\n> " + shown + b"\n> plain\n"


def test_progress_is_the_text_that_a_redrawn_line_shows_so_far() -> None:
    lines = LineAssembler(b"> ")
    seen = []
    for piece in (b"", b"10%", b"\r", b"20%", b"\r", b"\n", b"\r", b"x"):
        lines.feed(piece)
        seen.append(lines.progress())
    assert seen == [None, None, b"> 10%", b"> 20%", b"> 20%", None, None, b"> x"]


def test_a_line_is_cut_at_the_longest_length() -> None:
    lines = LineAssembler(b"> ")
    assert lines.feed(b"x" * (LONGEST_LINE - 1)) == b""
    assert lines.feed(b"y") == b"> " + b"x" * (LONGEST_LINE - 1) + b"y\n"
    assert lines.feed(b"rest\n") == b"> rest\n"


def test_what_a_progress_bar_has_overwritten_does_not_count_towards_the_longest_length() -> None:
    lines = LineAssembler(b"> ")
    assert lines.feed(b"x" * LONGEST_LINE + b"\r50%") == b""
    assert lines.feed(b" of 9\n") == b"> 50% of 9\n"
    assert lines.feed(b"50%\r" + b"x" * (LONGEST_LINE - 1)) == b""
    assert lines.feed(b"y\n") == b"> " + b"x" * (LONGEST_LINE - 1) + b"y\n"
    assert lines.feed(b"50%\r" + b"x" * LONGEST_LINE) == b"> " + b"x" * LONGEST_LINE + b"\n"
    assert lines.flush() == b""


@given(
    st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"\xff"]), max_size=20).map(b"".join),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_lines_are_the_same_however_their_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    lines = LineAssembler(b"> ")
    found = b"".join(lines.feed(data[begin:end]) for begin, end in pairwise(ends)) + lines.flush()
    *whole, last = data.split(b"\n")
    shown = [next((part for part in reversed(line.split(b"\r")) if part), b"") for line in whole]
    if last:
        shown.append(next((part for part in reversed(last.split(b"\r")) if part), b""))
    assert found == b"".join(b"> " + line + b"\n" for line in shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://b/x?sig=a", "https://b/x?sig=***"),
        ("https://b/x?Signature=a&Expires=1", "https://b/x?Signature=***&Expires=1"),
        ("https://b/x?SIGNATURE=a;SIG=b", "https://b/x?SIGNATURE=***;SIG=***"),
        ("https://b/x?design=a&signatures=b", "https://b/x?design=a&signatures=b"),
    ],
)
def test_the_signature_of_a_signed_url_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_the_first_word_of_a_command_line_is_no_options_value() -> None:
    assert masked_words(["token", "--token", "x", "y"]) == ["token", "--token", "***", "y"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b\x1b]0;x\x07]52;c;aGk=\x07",
        b"\x1b]\x1b]0;x\x0752;c;aGk=\x07",
        b"\xc2\xc2\x9d0;x\x07\x9d52;c;aGk=\x07",
        b"\x1b\x1bPtmux;Ptmux;\x1b\x1b]52;c;aGk=\x07",
        b"\xc2\x9d52;c;aGk=\xc2\x9c",
    ],
)
def test_what_is_left_around_a_removed_sequence_makes_no_other_one(data: bytes) -> None:
    left = harmless(data)
    assert harmless(left) == left and b"\x9c" not in left


@pytest.mark.parametrize("name", ["sig", "Signature", "X-Amz-Signature", "X-Goog-Signature"])
def test_signatures_of_urls_are_masked(name: str) -> None:
    assert masked(f"https://b.example/o?a=1&{name}=abc123&z=2") == f"https://b.example/o?a=1&{name}=***&z=2"
