"""Tell the user of a run: by a webhook, a command, or a notification of the desktop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from orchestrator.core.run.notice import Notice
from orchestrator.errors import UsageError

# How long one try may take, in seconds.
LIMIT = 10.0
DESKTOP = "desktop"


class NotToldYet(Exception):
    """A notice could not be delivered, and may be if it is tried again."""


class NotTold(Exception):
    """A notice cannot be delivered."""


def check(where: str) -> None:
    """Raise UsageError for a place that no notice can be delivered to."""
    if where == DESKTOP:
        if _desktop(Notice("ended", "", "", "")) is None:
            remedy = "apt install libnotify-bin; or pass a URL or a command"
            raise UsageError("--notify desktop: this machine has no notify-send", remedy=remedy)
    elif not where.strip() or "\0" in where or (_is_url(where) and not urlsplit(where).hostname):
        raise UsageError(
            f"--notify {where!r}: expected a URL, a command, or desktop",
            remedy="such as https://hooks.example.org/abc, or 'mail -s \"$ORCH_TEXT\" me </dev/null'",
        )


def shown(where: str) -> str:
    """Return a place as it may be shown: the path of a webhook is a secret."""
    return f"{urlsplit(where).scheme}://{urlsplit(where).hostname}/..." if _is_url(where) else where


def deliver(where: str, notice: Notice) -> None:
    """Deliver a notice once. Raises NotToldYet, NotTold."""
    if _is_url(where):
        _post(where, notice)
        return
    argv = _desktop(notice) if where == DESKTOP else ["/bin/sh", "-c", where]
    assert argv is not None
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **notice.as_variables()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=LIMIT,
            # Ctrl-C, which stops a run, must not end this command.
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotTold(str(error)) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise NotToldYet(f"exit code {done.returncode}" + (f": {said}" if said else ""))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for an answer: to follow it, urllib would send a GET without the notice."""

    def redirect_request(self, *args: object) -> None:
        """Do not follow."""


def _post(url: str, notice: Notice) -> None:
    request = urllib.request.Request(
        url,
        json.dumps(notice.as_json()).encode(),
        {"Content-Type": "application/json", "User-Agent": "orch"},
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=LIMIT):
            return
    except urllib.error.HTTPError as error:
        told = f"the server answers {error.code} {error.reason}"
        # 408 and 429 ask for another try, as the server's own failures do (RFC 9110, RFC 6585).
        if error.code in (408, 429) or error.code >= 500:
            raise NotToldYet(told) from None
        raise NotTold(told) from None
    except urllib.error.URLError as error:
        raise NotToldYet(str(error.reason)) from None
    except (OSError, ValueError) as error:
        raise NotToldYet(str(error)) from None


def _desktop(notice: Notice) -> list[str] | None:
    """Return the command that shows a notice on the desktop; None if there is no such program."""
    if sys.platform == "darwin":
        # Arguments of the script, so that no text is taken for code.
        script = 'on run argv\ndisplay notification (item 1 of argv) with title "orch"\nend run'
        return ["osascript", "-e", script, notice.text]
    program = shutil.which("notify-send")
    urgency = "critical" if notice.event == "failed" else "normal"
    return (
        None
        if program is None
        else [program, "--app-name=orch", f"--urgency={urgency}", "--", "orch", notice.text]
    )


def _is_url(where: str) -> bool:
    return where.startswith(("http://", "https://"))
