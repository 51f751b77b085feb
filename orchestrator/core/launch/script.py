"""Read from a script's text which options it declares, without running it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

# argparse, click and typer.
DECLARING = ("add_argument", "option", "Option")


@dataclass(frozen=True)
class ScriptOptions:
    """The options that a script declares itself, and the modules that it imports."""

    options: frozenset[str] = frozenset()
    imports: tuple[str, ...] = ()


def script_options(text: str) -> ScriptOptions:
    """Return the options and imports of a script; none if the text is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ScriptOptions()
    options: set[str] = set()
    imports: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in DECLARING:
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            options.update(word for word in words if isinstance(word, str) and word.startswith("-"))
        elif isinstance(node, ast.Import):
            imports.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports[node.module] = None
            imports.update(dict.fromkeys(f"{node.module}.{alias.name}" for alias in node.names))
    return ScriptOptions(frozenset(options), tuple(imports))


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
