"""Ctrl-C while orch waits: it acts in pauses, and at the end, and nowhere else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator.engine.signals import interrupted_in_pauses


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Let SIGINT act as in a terminal: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_acts_in_the_next_pause() -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_in_pauses() as pause:
        pause(0.0)
        os.kill(os.getpid(), signal.SIGINT)
        acted = False
        pause(60.0)
        acted = True
    assert not acted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_acts_at_the_end_if_no_pause_follows() -> None:
    ended = False
    with pytest.raises(KeyboardInterrupt), interrupted_in_pauses():
        os.kill(os.getpid(), signal.SIGINT)
        ended = True
    assert ended


def test_the_second_interrupt_acts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_in_pauses():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it did not")


def test_other_threads_just_sleep() -> None:
    found = []

    def work() -> None:
        with interrupted_in_pauses() as pause:
            found.append(pause)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [time.sleep]
