"""Python functions as workloads: shipped with cloudpickle, with return values that come back as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.core.launch.plan import Workload
from orchestrator.errors import UsageError
from orchestrator.operations.run.source import Source

PROJECT = "orch-function"
CALL = "orch_call.py"
# The script that each rank runs. cloudpickle is shipped beside it, so nodes need not have it installed.
SCRIPT = '''\
"""Call the function that was shipped, and write down what it returns."""

import json
import os
import sys

if sys.version_info[:2] != {version}:
    here = "%d.%d" % sys.version_info[:2]
    sys.exit("the function comes from Python {dotted}, and this is " + here + ": give the nodes the same")

import cloudpickle

with open("call.pickle", "rb") as file:
    function, args, kwargs = cloudpickle.load(file)
value = function(*args, **kwargs)
try:
    text = json.dumps(value)
except (TypeError, ValueError) as error:
    what = "what %s returned is no JSON: %s" % (getattr(function, "__name__", "it"), error)
    sys.exit(what + "; return numbers, strings, lists and dicts, and save the rest to a file")
name = "result.rank%s.json" % os.environ["RANK"]
with open(name + ".part", "w") as file:
    file.write(text)
os.replace(name + ".part", name)
'''


def packed(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], into: Path) -> Source:
    """Make the project folder ``into``, which calls ``function(*args, **kwargs)`` on every rank, and return it.

    The function is shipped by value, and so is what it uses of its own module. Modules that it imports must be
    installed on the nodes, whose Python must have the same minor version. Raises UsageError if shipping fails.
    """
    try:
        import cloudpickle
    except ImportError:
        raise UsageError("shipping a function needs cloudpickle", remedy="pip install cloudpickle") from None
    module = sys.modules.get(function.__module__)
    by_value = module is not None and _is_users(module)
    if by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        data = cloudpickle.dumps((function, tuple(args), dict(kwargs)))
    except Exception as error:
        # pickle calls methods of the objects, which may raise anything.
        what = f"{type(error).__name__}: {error}"
        remedy = "open files, locks and connections inside the function"
        raise UsageError(f"{_name(function)} cannot be shipped: {what}", remedy=remedy) from None
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    version = sys.version_info[:2]
    into.mkdir(parents=True, exist_ok=True)
    (into / "call.pickle").write_bytes(data)
    dotted = ".".join(map(str, version))
    (into / CALL).write_text(SCRIPT.replace("{version}", repr(version)).replace("{dotted}", dotted))
    source = Path(cloudpickle.__file__).parent
    shutil.copytree(source, into / "cloudpickle", ignore=shutil.ignore_patterns("__pycache__"))
    return Source(Workload(_name(function), "script", CALL, ".", PROJECT), into)


def values(outputs: Path) -> dict[int, Any]:
    """Return the value that each rank returned, by rank, from the outputs of a run. Others are left out."""
    found = {}
    for file in outputs.glob("*/result.rank*.json"):
        rank = file.name.removeprefix("result.rank").removesuffix(".json")
        # Data from a node are never unpickled. A file that is not JSON counts as missing.
        with suppress(ValueError):
            found[int(rank)] = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    return dict(sorted(found.items()))


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _is_users(module: Any) -> bool:
    """Return whether a module is the user's own, which nodes lack, rather than an installed one."""
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__" or file is None:
        return False
    installed = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    return not any(Path(file).resolve().is_relative_to(folder) for folder in installed)
