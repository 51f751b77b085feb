"""Finds the workload that the user named, and the folder that the nodes need for it."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.launch.declared import ScriptOptions, names, script_options
from orchestrator.core.launch.plan import Workload
from orchestrator.core.text.nearest import did_you_mean, nearest
from orchestrator.errors import UsageError

PROJECT_MARKS = (".git", "pyproject.toml", ".orchignore")
# Most files that are searched for an option.
MOST_FILES = 200
# Beside the package orchestrator, in a checkout and when installed. An import might find another folder.
BUNDLED = Path(__file__).resolve().parents[3] / "workloads"


@dataclass(frozen=True)
class Source:
    """A workload and the root of its project folder, which is synced."""

    workload: Workload
    root: Path


def bundled() -> dict[str, Path]:
    """Return the file of each workload that comes with orch, by name."""
    return {file.stem.replace("_", "-"): file for file in sorted(BUNDLED.glob("[a-z]*.py"))}


def described() -> dict[str, str]:
    """Return the first docstring line of each workload that comes with orch, by name."""
    found = {}
    for name, file in bundled().items():
        # Parsed, not imported: the control machine may have no torch.
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[name] = docstring.partition("\n")[0]
    return found


def declared_options(source: Source) -> ScriptOptions:
    """Return the options that the workload's file declares, and the modules beside it that it imports.

    The files are parsed, not run.
    """
    file = _file(source)
    found = script_options(_text(file))
    others = []
    for name in found.imports:
        beside = file.parent.joinpath(*name.split(".")).with_suffix(".py")
        if beside.is_file():
            taken = {each.removeprefix(f"{name}.") for each in found.imports if each.startswith(f"{name}.")}
            others.append(script_options(_text(beside), None if "*" in taken else taken or None))
    options = found.options.union(*(each.options for each in others))
    return ScriptOptions(options, found.imports, all(each.whole for each in (found, *others)))


def text_names(source: Source, option: str, *, as_option: bool) -> bool:
    """Return whether the workload's file, or a file of the project that it imports, names an option.

    ``as_option``: only with its leading dashes; otherwise also as a word, such as a field's name.
    """
    first = _file(source)
    seen, waiting = {first}, [first]
    for _ in range(MOST_FILES):
        if not waiting:
            break
        file = waiting.pop()
        text = _text(file)
        if names(text, option, as_option=as_option):
            return True
        for name in script_options(text).imports:
            for folder in (file.parent, source.root):
                path = folder.joinpath(*name.split("."))
                found = {path.with_name(f"{path.name}.py"), path / "__init__.py"} - seen
                waiting += sorted(each for each in found if each.is_file())
                seen |= found
    return False


def _file(source: Source) -> Path:
    """Return the file that the workload begins in."""
    workload = source.workload
    folder = source.root / workload.cwd
    if workload.kind != "module":
        return folder / workload.target
    path = folder.joinpath(*workload.target.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_name(f"{path.name}.py")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def bundled_file(name: str) -> Path:
    """Return the file of the bundled workload ``name``, also spelled as its file. Raises UsageError."""
    known = bundled()
    word = name.removesuffix(".py").replace("_", "-")
    if word not in known:
        raise UsageError(f"no bundled workload {name!r}", remedy=_nearest(name, known))
    return known[word]


def companions(script: Path) -> list[Path]:
    """Return the files beside a bundled script that it needs: the modules it imports, the data it names.

    Data come with their license, a file of the same name that ends with ``.LICENSE``.
    """
    needed: dict[Path, None] = {}
    left = [script]
    while left:
        tree = ast.parse(left.pop().read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for name in _files_named(node):
                file = script.parent / name
                if file == script or file in needed or not file.is_file():
                    continue
                license_file = file.with_suffix(".LICENSE")
                needed |= dict.fromkeys([file, *([license_file] if license_file.is_file() else [])])
                left += [file] if file.suffix == ".py" else []
    return list(needed)


def _files_named(node: ast.AST) -> list[str]:
    """Return the files that a piece of a script may name: modules that it imports, and strings such as a.csv."""
    if isinstance(node, ast.Import):
        return [f"{alias.name}.py" for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.py"]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 100:
        return [node.value, f"data/{node.value}"] if re.fullmatch(r"(data/)?[\w-]+\.csv", node.value) else []
    return []


def _nearest(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return did_you_mean(near) if near else f"bundled workloads: {', '.join(bundled())}"


def _scripts(name: str) -> list[str]:
    """Return the scripts in the folder that ``name`` names, as the user would name them."""
    folder, slash, _ = name.rpartition("/")
    try:
        return [f"{folder}{slash}{file.name}" for file in sorted(Path(folder + slash).glob("*.py"))]
    except OSError:
        return []


def resolve(name: str, *, is_module: bool = False, project: Path | None = None) -> Source:
    """Find a bundled workload by name, a script by path, or a module of the current folder's project.

    Raises UsageError, with similar or bundled names, if there is none, or if the script lies outside ``project``.
    """
    here = Path.cwd()
    if is_module:
        root = _checked(project) if project else project_of(here)
        cwd = os.path.relpath(here, root) if here.is_relative_to(root) else "."
        return Source(Workload(f"-m {name}", "module", name, cwd, project_name(root)), root)
    known = bundled()
    if name in known:
        file = known[name]
        return Source(Workload(name, "script", file.name, ".", "orch-workloads"), file.parent)
    script = (here / name).resolve()
    if not script.is_file():
        raise UsageError(f"no workload or script {name!r}", remedy=_nearest(name, [*known, *_scripts(name)]))
    root = _checked(project) if project else project_of(script.parent)
    if not script.is_relative_to(root):
        raise UsageError(f"{name} is not in the project folder {root}", remedy="pass another --project")
    folder = here if here.is_relative_to(root) else script.parent
    cwd, target = os.path.relpath(folder, root), os.path.relpath(script, folder)
    # A script whose name looks like an option must not be taken for one.
    target = f"./{target}" if target.startswith("-") else target
    return Source(Workload(script.name, "script", target, cwd, project_name(root)), root)


def project_of(folder: Path) -> Path:
    """Return the nearest folder from ``folder`` upwards with one of ``PROJECT_MARKS``, else ``folder`` itself.

    The search ends below the home folder, which may hold a repository of dot files.
    """
    for candidate in (folder, *folder.parents):
        if candidate == Path.home():
            break
        if any((candidate / mark).exists() for mark in PROJECT_MARKS):
            return candidate
    return folder


def _checked(project: Path) -> Path:
    if not project.is_dir():
        raise UsageError(f"--project {project} is not a folder")
    return project.resolve()


def project_name(root: Path) -> str:
    """Return the name of the project's folder on the nodes."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", root.name).lstrip(".-") or "project"
