"""A node that says what no node program would: the control side ends it with one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import VERBS, Verb, mutated, node_that_says, outside, survived

SOME = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_what_an_honest_node_says_is_understood(verb: Verb, tmp_path: Path) -> None:
    verb.do(node_that_says(verb.honest()), tmp_path)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
@SOME
@given(data=st.data())
def test_changed_messages_end_in_one_line(verb: Verb, tmp_path: Path, data: st.DataObject) -> None:
    before = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    error = survived(verb, data.draw(mutated(verb.frames)), tmp_path)
    assert error is None or len(error.splitlines()) == 1 or "read_errors" not in error
    assert outside(tmp_path, before) == set()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
@SOME
@given(said=st.binary(max_size=300))
def test_bytes_that_are_no_messages_end_in_one_line(verb: Verb, tmp_path: Path, said: bytes) -> None:
    before = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    survived(verb, said, tmp_path)
    assert outside(tmp_path, before) == set()
