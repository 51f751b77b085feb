"""Checks of each node's training interpreter and of its packages."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement

from orchestrator.core.checks.containers import lacks_subordinate_ids, no_right
from orchestrator.core.checks.facts import Facts
from orchestrator.core.checks.findings import Examined, Finding, fail, warn
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.sections.container import Container


def interpreter(examined: Examined) -> Iterator[Finding]:
    """Check that the interpreter works and has torch."""
    for host in examined.hosts:
        python = examined.facts[host.name].python
        if host.container is not None:
            yield from _in_image(host, host.container, examined.facts[host.name])
        elif python.error and host.environment is not None:
            what = f"the environment ({host.environment}) is not built yet"
            yield warn(host.name, what, "build it with orch sync; orch run builds it, too")
        elif python.error:
            what = f"interpreter {python.path!r} cannot be used: {python.error}"
            yield fail(host.name, what, "set python: for this host to an interpreter that works there")
        elif python.torch is None:
            what = f"{python.path} (Python {python.version}) has no torch"
            remedy = f"run there: {python.path} -m pip install torch; or set python: to another interpreter"
            yield fail(host.name, what, remedy)


def _in_image(host: Host, container: Container, known: Facts) -> Iterator[Finding]:
    """Check that the interpreter in the image works and has torch, if the engine has the image."""
    if known.engine is None or known.engine.image_id is None:
        return
    python = known.python
    if python.error and lacks_subordinate_ids(python.error):
        yield fail(host.name, *no_right(known.engine, known.user, "no subordinate user ids"))
    elif python.error:
        what = f"{python.path} in the image {container.image} cannot be used: {python.error}"
        yield fail(host.name, what, "set python: to an interpreter in the image, and container.options: as needed")
    elif python.torch is None:
        what = f"{python.path} (Python {python.version}) in the image {container.image} has no torch"
        yield fail(host.name, what, "name an image with torch, or set python: to another interpreter in the image")


def torch_imports(examined: Examined) -> Iterator[Finding]:
    """Check that torch can be imported."""
    for host in examined.hosts:
        why = examined.parts(host.name).unanswered.get("torch")
        python = examined.facts[host.name].python
        if why is not None and not python.error and python.torch is not None:
            what = f"{python.path} cannot import torch: {why}"
            yield fail(host.name, what, f"see the whole error there: {python.path} -c 'import torch'")


def torchvision(examined: Examined) -> Iterator[Finding]:
    """Check that torchvision is built for the installed torch: it cannot be imported with any other version."""
    for host in examined.hosts:
        versions = examined.parts(host.name).versions
        if versions is None:
            continue
        wants, has = versions.torchvision_wants, versions.packages.get("torch")
        if wants and has and has.partition("+")[0] != wants.partition("+")[0]:
            mine = versions.packages["torchvision"]
            what = f"torchvision {mine} needs torch {wants}, but torch {has} is installed: its import will fail"
            remedy = f"run there: {examined.facts[host.name].python.path} -m pip install torchvision torch=={has}"
            # This is only a warning, because not every script imports torchvision.
            yield warn(host.name, what, remedy)


def requirements(examined: Examined) -> Iterator[Finding]:
    """Check that the packages in the project's requirements.txt are installed."""
    wanted = parsed(examined.requirements)
    for host in examined.hosts:
        versions = examined.parts(host.name).versions
        if versions is None or not wanted:
            continue
        python = examined.facts[host.name].python
        short = ".".join((python.version or "").split(".")[:2])
        here = {"python_version": short, "python_full_version": python.version or "", "sys_platform": "linux"}
        lacking = []
        for each in wanted:
            if each.marker is not None and not each.marker.evaluate(here):
                continue
            has = versions.packages.get(each.name)
            if has is None or (has != "unknown" and not each.specifier.contains(has, prereleases=True)):
                lacking.append(f"{each.name}{each.specifier} ({has or 'not installed'})")
        if lacking:
            more = f" and {len(lacking) - 4} more" if len(lacking) > 4 else ""
            what = f"requirements.txt is not satisfied: {', '.join(lacking[:4])}{more}"
            yield warn(host.name, what, f"run there: {python.path} -m pip install -r requirements.txt")


def parsed(lines: tuple[str, ...]) -> list[Requirement]:
    """Return the requirements in the lines of a requirements.txt, without options, files and links."""
    found = []
    for line in lines:
        text = line.partition(" #")[0].partition(" --")[0].strip()
        if not text or text.startswith(("#", "-")):
            continue
        try:
            found.append(Requirement(text))
        except InvalidRequirement:
            continue
    return found
