"""Read from a script's text which options it declares, without running it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass

# argparse, click and typer.
DECLARING = ("add_argument", "option", "Option")
# Ways to take options that no call in the text names.
OPEN = ("parse_known_args", "parse_known_intermixed_args", "HfArgumentParser", "add_arguments", "Fire")


@dataclass(frozen=True)
class ScriptOptions:
    """The options that a script declares itself, and the modules that it imports.

    ``whole``: whether the script takes no other options, as far as its text shows.
    """

    options: frozenset[str] = frozenset()
    imports: tuple[str, ...] = ()
    whole: bool = True


def script_options(text: str, taken: Collection[str] | None = None) -> ScriptOptions:
    """Return the options and imports of a script; none if the text is not Python.

    ``taken``: the text is a module's, and these of its functions and classes are imported; None for all of them.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ScriptOptions(whole=False)
    whole = True
    options: set[str] = set()
    imports: dict[str, None] = {}
    for node in ast.walk(tree if taken is None else _reached(tree, taken)):
        if isinstance(node, ast.Call) and _called(node) in DECLARING:
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            names = [name for word in words if isinstance(word, str) for name in word.split("/")]
            options.update(name for name in names if name.startswith("-"))
            if "BooleanOptionalAction" in ast.dump(node):
                options.update(f"--no-{name[2:]}" for name in names if name.startswith("--"))
            whole = whole and len(words) == len(node.args)
        elif isinstance(node, ast.Call) and _called(node) in OPEN:
            whole = False
        elif isinstance(node, ast.Import):
            imports.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                imports[node.module] = None
            within = f"{node.module}." if node.module else ""
            imports.update(dict.fromkeys(f"{within}{alias.name}" for alias in node.names))
    return ScriptOptions(frozenset(options), tuple(imports), whole)


def names(text: str, option: str, *, as_option: bool) -> bool:
    """Return whether a script's text has the option's name, with dashes or underscores between its words.

    ``as_option``: only with two dashes before it.
    """
    words = "[-_]".join(re.escape(word) for word in re.split("[-_]", option.lstrip("-")))
    before = "--" if as_option else r"(?<!\w)"
    return re.search(rf"{before}{words}(?![\w-])", text) is not None


def _reached(tree: ast.Module, taken: Collection[str]) -> ast.Module:
    """Return the module without the functions and classes that those in ``taken`` do not name, even indirectly."""
    parts = {
        part.name: part
        for part in tree.body
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    rest = [part for part in tree.body if part not in parts.values()]
    reached: dict[str, ast.stmt] = {}
    waiting = [parts[name] for name in parts if name in taken]
    while waiting:
        part = waiting.pop()
        reached[part.name] = part
        named = {node.id for node in ast.walk(part) if isinstance(node, ast.Name)}
        waiting += [parts[name] for name in named if name in parts and name not in reached]
    return ast.Module([*rest, *reached.values()], [])


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
