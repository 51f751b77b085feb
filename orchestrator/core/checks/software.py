"""Checks of each node's training interpreter and of what is installed for it."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement

from orchestrator.core.checks.findings import Examined, Finding, fail, warn


def interpreter(examined: Examined) -> Iterator[Finding]:
    """The interpreter is there and has torch."""
    for host in examined.hosts:
        python = examined.facts[host.name].python
        if python.error and host.environment is not None:
            what = f"its environment ({host.environment}) is not built yet"
            yield warn(host.name, what, "orch sync builds it, and so does orch run")
        elif python.error:
            what = f"interpreter {python.path!r}: {python.error}"
            yield fail(host.name, what, "set python: for this host to one that exists there")
        elif python.torch is None:
            what = f"{python.path} (Python {python.version}) has no torch"
            remedy = f"{python.path} -m pip install torch, or set python: for this host"
            yield fail(host.name, what, remedy)


def torch_imports(examined: Examined) -> Iterator[Finding]:
    """torch can be imported."""
    for host in examined.hosts:
        why = examined.parts(host.name).unanswered.get("torch")
        python = examined.facts[host.name].python
        if why is not None and not python.error and python.torch is not None:
            what = f"{python.path} cannot import torch: {why}"
            yield fail(host.name, what, f"try it there: {python.path} -c 'import torch'")


def torchvision(examined: Examined) -> Iterator[Finding]:
    """torchvision is built for one version of torch and does not import with another."""
    for host in examined.hosts:
        versions = examined.parts(host.name).versions
        if versions is None:
            continue
        wants, has = versions.torchvision_wants, versions.packages.get("torch")
        if wants and has and has.partition("+")[0] != wants.partition("+")[0]:
            mine = versions.packages["torchvision"]
            what = f"torchvision {mine} belongs to torch {wants}, and torch {has} is installed: it will not import"
            remedy = f"there: {examined.facts[host.name].python.path} -m pip install torchvision torch=={has}"
            # Only a warning: not every script imports it.
            yield warn(host.name, what, remedy)


def requirements(examined: Examined) -> Iterator[Finding]:
    """What the project's requirements.txt asks for is installed."""
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
            what = f"lacks what requirements.txt asks for: {', '.join(lacking[:4])}{more}"
            yield warn(host.name, what, f"there: {python.path} -m pip install -r requirements.txt")


def parsed(lines: tuple[str, ...]) -> list[Requirement]:
    """The requirements of lines of a requirements.txt; options, files and links are passed over."""
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
