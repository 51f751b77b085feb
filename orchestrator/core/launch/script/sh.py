"""Write a LaunchPlan as POSIX shell: one complete script a node, which needs only the synced code there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from orchestrator.core.launch.command import OUTPUT_FOLDER, NodeCommand
from orchestrator.core.launch.plan import LaunchPlan, NodePlan
from orchestrator.core.launch.script.by_hand import (
    Word,
    heading,
    joined,
    node_commands,
    script_name,
    secrets,
    words,
)

_HEAD = """\
#!/bin/sh
# {heading}. Written by orch plan --format sh.
# It needs the code that orch sync puts on this machine, and nothing else of orch. The nodes wait for each other.
# ORCH_CODE=FOLDER takes the code from another folder. Its exit code is the launcher's.
set -eu
"""
# The copy is renamed once it is whole: a broken one must not pass for the working folder of an earlier start.
_FOLDERS = """\
code={code}
if [ -n "${{ORCH_CODE-}}" ]; then code=$ORCH_CODE; fi
work={work}
if [ ! -d "$work" ]; then
  for tree in "$code"{overlays}; do
    if [ ! -d "$tree" ]; then
      echo "$0: there is no code in $tree: run orch sync, or set ORCH_CODE to the folder with it" >&2
      exit 3
    fi
  done
  rm -rf "$work.part"
  mkdir -p "$work.part"
  chmod 700 "$work.part"
  for tree in "$code"{overlays}; do
    cp -RPf "$tree/." "$work.part"
    chmod -R u+w "$work.part"
  done
  mv "$work.part" "$work"
fi
mkdir -p {folders}
"""
# A gap in a word: the name of a shell variable whose value takes its place, between characters that no font has.
_GAP = re.compile("\ue000([A-Z_]+)\ue001")
_ACTIVATE = """\
activate={activate}
if [ -f "$activate" ]; then
  # Scripts of some environments read variables that are not set.
  set +u
  . "$activate"
  set -u
fi
"""


def as_sh(plan: LaunchPlan) -> str:
    """Return the scripts of all nodes as one text."""
    return joined(sh_scripts(plan))


def sh_scripts(plan: LaunchPlan) -> dict[str, str]:
    """Return each node's script by file name. Secrets are taken from the environment that the script starts in."""
    return {script_name(node, "sh"): _script(plan, node, launch) for node, launch in node_commands(plan)}


def _script(plan: LaunchPlan, node: NodePlan, launch: NodeCommand) -> str:
    return _HEAD.format(heading=heading(plan, node)) + "\n" + body(plan, node, launch)


def body(plan: LaunchPlan, node: NodePlan, launch: NodeCommand) -> str:
    """Return the lines of a script that make a node's folders and start its launcher."""
    argv = words(launch.argv)
    parts = [_required(secrets(launch, argv)), _folders(plan, node, launch)]
    for path, text in launch.files.items():
        parts.append(f"mkdir -p {sh_word(_parent(path))}\nprintf %s {shlex.quote(text)} > {sh_word(path)}\n")
    if "/" in node.python:
        parts.append(_ACTIVATE.format(activate=sh_word(f"{_parent(node.python)}/activate")))
    return "\n".join(part for part in parts if part) + "\n" + _start(launch, argv)


def _required(missing: Mapping[str, str]) -> str:
    """Return the lines that refuse to start while a secret is not set."""
    lines = ["# Secrets are not written here. Set these variables first:"] if missing else []
    for name, what in missing.items():
        lines += [f"# {name}: {what}", f': "${{{name}?is not set; it holds a secret that this script needs}}"']
    return "".join(f"{line}\n" for line in lines)


def _folders(plan: LaunchPlan, node: NodePlan, launch: NodeCommand) -> str:
    project = f"{node.workdir}/{plan.spec.workload.project}"
    trees = [f"{project}/{tree}" for tree in plan.trees.get(node.node, ())] or [project]
    folders = [launch.cwd, f"{node.work}/{OUTPUT_FOLDER}", f"{node.attempt_dir}/logs"]
    return _FOLDERS.format(
        code=sh_word(trees[0]),
        work=sh_word(node.work),
        overlays="".join(f" {sh_word(tree)}" for tree in trees[1:]),
        folders=" ".join(sh_word(folder) for folder in folders),
    )


def _start(launch: NodeCommand, argv: list[Word]) -> str:
    # env's own arguments are expanded before it sets any of them, so that a user's HOME moves no path.
    lines = [f"cd {sh_word(launch.cwd)}", "exec env \\"]
    for name, value in launch.shown_env.items():
        secret = value != launch.env[name]
        lines.append(f'  {name}="${{{name}}}" \\' if secret else f"  {name}={sh_word(value)} \\")
    taken = [f'"${{{word.variable}}}"' if word.variable else sh_word(word.text) for word in argv]
    return "\n".join(lines) + "\n  " + " ".join(taken) + "\n"


def gap(variable: str) -> str:
    """Return what stands in a word for the value of a shell variable."""
    return f"\ue000{variable}\ue001"


def sh_word(word: str) -> str:
    """Quote a word; a gap, and the leading ``~/`` of a plan made without asking nodes, are left to the shell."""
    if _GAP.search(word):
        parts = _GAP.split(word)
        quoted = [sh_word(part) if part else "" for part in parts[::2]]
        names = [f'"${{{name}}}"' for name in parts[1::2]]
        return "".join(text for pair in zip(quoted, [*names, ""], strict=True) for text in pair)
    head, tilde, rest = word.partition("~/")
    if tilde and (head == "" or head.endswith("=")):
        return f'{shlex.quote(head) if head else ""}"$HOME"/{shlex.quote(rest)}'
    return shlex.quote(word)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
