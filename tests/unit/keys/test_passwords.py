"""Passwords: asked once for all servers that share one, never tried twice on one server, and shown nowhere."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.errors import AuthenticationFailed, ConnectTimeout
from orchestrator.operations.keys.options import Asking
from orchestrator.operations.keys.reaching import Reaching
from orchestrator.remote.ssh.authentication import Login, Password
from orchestrator.ui.display import Display


class FakeLink:
    """A connection to a host behind a chain of servers, each with its own password; None for a key's login."""

    def __init__(self, name: str, servers: Mapping[str, str | None], takes: bool = True) -> None:
        self.host = SimpleNamespace(name=name)
        self.servers = servers
        self.takes = takes
        self.where = list(servers)[-1]
        self.tried: list[tuple[str, str]] = []

    def open(self, login: Login) -> None:
        for server, password in self.servers.items():
            given = login.passwords.get(server)
            if given is not None:
                self.tried.append((server, given.reveal()))
            if password is not None and (given is None or given.reveal() != password):
                raise AuthenticationFailed(
                    "refused", host=self.host.name, server=server, takes_passwords=self.takes
                )


def log_in(links: list[FakeLink], *words: str | None) -> tuple[list[str], dict[str, bool]]:
    """Return the questions asked, and for each host whether its connection is open."""
    answers, asked = iter(words), []

    def password(question: str) -> str | None:
        asked.append(question)
        return next(answers)

    refused = {}
    for link in links:
        with pytest.raises(AuthenticationFailed) as caught:
            link.open(Login())
        refused[link.host.name] = caught.value
    reaching = Reaching(8, Asking(lambda _: True, None, password), Display())
    given: Any = links
    outcomes = reaching.log_in(given, refused)
    for link in links:
        assert len(set(link.tried)) == len(link.tried) or len(link.servers) > 1
    return asked, {name: outcome is None for name, outcome in outcomes.items()}


def host(number: int, password: str | None = "one") -> FakeLink:
    return FakeLink(f"node{number}", {f"root@10.0.0.{number}:22": password})


def test_one_password_for_all_is_asked_once() -> None:
    asked, opened = log_in([host(1), host(2), host(3)], "one")
    assert asked == ["password of root on node[1-3]"]
    assert all(opened.values())


def test_it_is_asked_again_for_the_servers_that_refuse_it() -> None:
    links = [host(1), host(2, "two"), host(3, "three")]
    asked, opened = log_in(links, "one", "two", "three")
    assert asked == [
        "password of root on node[1-3]",
        "other password of root on node[2-3]",
        "other password of root on node3",
    ]
    assert all(opened.values())
    assert [word for _, word in links[0].tried] == ["one"]


def test_after_three_that_nobody_accepts_no_more_is_asked() -> None:
    asked, opened = log_in([host(1), host(2, "two")], "x", "y", "z", "one")
    assert len(asked) == 3 and not any(opened.values())


def test_no_password_leaves_the_rest_refused() -> None:
    asked, opened = log_in([host(1), host(2, "two")], "one", None)
    assert len(asked) == 2 and opened == {"node1": True, "node2": False}


def test_a_jump_host_is_a_server_too_and_the_same_password_is_tried_behind_it() -> None:
    jump = {"me@jump:22": "one"}
    links = [FakeLink("a", {**jump, "root@a:22": "one"}), FakeLink("b", {**jump, "root@b:22": "two"})]
    asked, opened = log_in(links, "one", "two")
    assert asked == ["password of the jump host me@jump:22", "other password of root on b"]
    assert all(opened.values())


def test_a_server_that_takes_keys_only_is_asked_for_no_password() -> None:
    link = FakeLink("a", {"me@jump:22": "one", "root@a:22": "never"})

    def open_(login: Login) -> None:
        if "me@jump:22" not in login.passwords:
            raise AuthenticationFailed("refused", host="a", server="me@jump:22", takes_passwords=True)
        raise AuthenticationFailed("keys only", host="a", server="root@a:22")

    link.open = open_  # type: ignore[method-assign]
    asked, opened = log_in([link], "one")
    assert len(asked) == 1 and opened == {"a": False}


def test_another_error_ends_a_host_s_part() -> None:
    link = host(1)

    def open_(login: Login) -> None:
        if login.passwords:
            raise ConnectTimeout("gone", host="node1")
        raise AuthenticationFailed("refused", host="node1", server=link.where, takes_passwords=True)

    link.open = open_  # type: ignore[method-assign]
    asked, opened = log_in([link], "one")
    assert len(asked) == 1 and opened == {"node1": False}


def test_no_representation_shows_a_password() -> None:
    login = Login({"root@a:22": Password("sesame")})
    for text in (repr(login), str(login), f"{login.passwords}", repr(login.passwords["root@a:22"])):
        assert "sesame" not in text
    try:
        raise ValueError(login)
    except ValueError:
        assert "sesame" not in traceback.format_exc()
