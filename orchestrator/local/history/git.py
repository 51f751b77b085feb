"""What git says about a project's folder: its commit, and what differs from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from orchestrator.core.history.record import GitState

# Longest time for one command, in seconds: a large repository on a slow disk may take this.
LIMIT = 10.0
# A longer difference is cut; the code itself is kept in any case.
LONGEST_DIFF = 2**20


def git_state(root: Path) -> tuple[GitState | None, str]:
    """Return the commit of a folder and its difference from that, empty if it is clean.

    None if git is not installed, or the folder is no repository with a commit.
    """
    try:
        head = _git(root, "log", "-1", "--format=%H%n%s")
        if head is None:
            return None, ""
        commit, _, subject = head.rstrip("\n").partition("\n")
        branch = _git(root, "symbolic-ref", "--quiet", "--short", "HEAD")
        # Only the project's own folder, which may be a part of the repository.
        status = _git(root, "status", "--porcelain", "--", ".")
        if status is None:
            return None, ""
        diff = (_git(root, "diff", "HEAD", "--", ".") or "") if status else ""
    except (OSError, subprocess.SubprocessError):
        return None, ""
    return GitState(commit, branch.strip() if branch else None, subject[:200], bool(status)), diff[:LONGEST_DIFF]


def _git(root: Path, *words: str) -> str | None:
    """Return the output of a git command; None if it fails. Raises OSError, TimeoutExpired."""
    # Without optional locks, so that a git of the user's beside this one never fails.
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT)
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
