"""Write a LaunchPlan as PowerShell: one complete script a Windows machine, which starts its ranks.

torchrun is not used: PyTorch's packages for Windows are built without libuv, and the store that torchrun opens
insists on it, whatever ``USE_LIBUV`` says (pytorch/pytorch#148283, #178600). A rank's process group obeys it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
from orchestrator.errors import UsageError

# PowerShell takes each of these for the end of a string in single quotes.
_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")
# The folder of a path, with the last separator.
_FOLDER = re.compile(r"(?s).*[/\\]")
# What the C runtime reads back: a quote gets a backslash; backslashes before one, or at the end, are doubled.
PLAIN, BEFORE_QUOTE, AT_END = r'[\s"]', r'(\\*)"', r"(\\+)\z"
# Variables that describe a Linux machine, or a library that Windows lacks.
_LINUX = ("PATH", "PET_REDIRECTS", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE")
_HEAD = """\
# {heading}. Written by orch plan --format ps1.
#   powershell -ExecutionPolicy Bypass -File {name} [-Code FOLDER]
# The code lies beside this script, or in FOLDER. The nodes wait for each other. The exit code is that of the
# first rank that fails, or 0. torchrun is not used: it needs libuv, which PyTorch for Windows lacks.
#
# Ranks connect to each other, so each machine has to let the others in. Once, as administrator:
#   New-NetFirewallRule -DisplayName 'PyTorch ranks' -Direction Inbound -Action Allow -Protocol TCP {remote}
param([string]$Code = $PSScriptRoot)
$ErrorActionPreference = 'Stop'
"""
_CODE = """\
if (-not (Test-Path -LiteralPath (Join-Path $Code {target}))) {{
  [Console]::Error.WriteLine("There is no " + {target} + " in $Code; pass -Code with the folder of the code.")
  exit 3
}}
$work = Join-Path (Convert-Path -LiteralPath $Code) {cwd}
[System.IO.Directory]::CreateDirectory({output}) | Out-Null
"""
_ACTIVATE = """\
$activate = {activate}
if (Test-Path -LiteralPath $activate) {{ . $activate }}
"""
# Windows PowerShell 5 loses quotes and empty words that it passes to a program itself, so the line is made here.
_START = """\
function ConvertTo-Argument([string]$Word) {{
  if ($Word -ne '' -and $Word -notmatch '{plain}') {{ return $Word }}
  return '"' + (($Word -replace '{before}', '$1$1\\"') -replace '{end}', '$1$1') + '"'
}}
$words = @(
{words}
)
$ranks = @(foreach ($local in 0..{last}) {{
  $env:RANK = [string]({first} + $local)
  $env:LOCAL_RANK = [string]$local
  $start = New-Object System.Diagnostics.ProcessStartInfo
  $start.FileName = {python}
  $start.Arguments = ($words | ForEach-Object {{ ConvertTo-Argument $_ }}) -join ' '
  $start.WorkingDirectory = $work
  $start.UseShellExecute = $false
  [System.Diagnostics.Process]::Start($start)
}})
$status = 0
try {{
  do {{
    Start-Sleep -Milliseconds 200
    $running = @($ranks | Where-Object {{ -not $_.HasExited }})
    foreach ($rank in $ranks) {{
      if ($status -eq 0 -and $rank.HasExited) {{ $status = $rank.ExitCode }}
    }}
  }} while ($status -eq 0 -and $running.Count -gt 0)
}} finally {{
  # The others would wait for a rank that has gone. Ctrl-C comes here, too.
  foreach ($rank in $ranks) {{ if (-not $rank.HasExited) {{ $rank.Kill() }} }}
}}
exit $status
"""


def as_ps1(plan: LaunchPlan) -> str:
    """Return the scripts of all nodes as one text. Raises UsageError."""
    return joined(ps1_scripts(plan))


def ps1_scripts(plan: LaunchPlan) -> dict[str, str]:
    """Return each node's script by file name. Raises UsageError for what does not exist on Windows.

    Secrets are taken from the environment that the script starts in.
    """
    _refuse(plan)
    return {script_name(node, "ps1"): _script(plan, node, launch) for node, launch in node_commands(plan)}


def _refuse(plan: LaunchPlan) -> None:
    if plan.spec.backend not in ("auto", "gloo"):
        raise UsageError(
            f"--format ps1: there is no {plan.spec.backend} on Windows",
            remedy="--backend gloo, or WSL2 with --format sh",
        )
    if plan.rdzv_backend != "static":
        raise UsageError(
            "--format ps1: torchrun's c10d rendezvous does not work on Windows, where PyTorch has no libuv",
            remedy="leave out --rdzv options and --nnodes MIN:MAX, or use WSL2 with --format sh",
        )
    if plan.spec.launcher not in ("torchrun", "accelerate"):
        raise UsageError(
            f"--format ps1: {plan.spec.launcher} is not started by hand", remedy="--launcher torchrun"
        )


def _script(plan: LaunchPlan, node: NodePlan, launch: NodeCommand) -> str:
    workload = plan.spec.workload
    target = ("-m", workload.target) if workload.kind == "module" else (workload.target,)
    argv = words((*target, *plan.spec.args))
    head = _HEAD.format(heading=heading(plan, node), name=script_name(node, "ps1"), remote=_remote(plan))
    # A module may be installed; only the folder is certain.
    sought = workload.cwd if workload.kind == "module" else f"{workload.cwd}/{workload.target}".removeprefix("./")
    code = _CODE.format(
        target=ps1_word(sought), cwd=ps1_word(workload.cwd), output=ps1_word(f"{node.work}/{OUTPUT_FOLDER}")
    )
    parts = [head, _required(secrets(launch, argv)), code, _variables(_environment(plan, node, launch))]
    python = "python" if node.python == "python3" else node.python
    if folder := _FOLDER.match(python):
        parts.append(_ACTIVATE.format(activate=ps1_word(f"{folder[0]}Activate.ps1")))
    parts.append(_run(argv, python, node))
    return "\n".join(part for part in parts if part)


def _remote(plan: LaunchPlan) -> str:
    """Return the addresses that the firewall's rule lets in: the nodes', or the subnet's if one is unknown."""
    addresses = [node.address for node in plan.nodes]
    numeric = [each for each in addresses if each and re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]+", each)]
    return "-RemoteAddress " + (",".join(numeric) if len(numeric) == len(addresses) else "LocalSubnet")


def _required(missing: Mapping[str, str]) -> str:
    """Return the lines that refuse to start while a secret is not set."""
    lines = ["# Secrets are not written here. Set these variables first:"] if missing else []
    lines += [f"#   $env:{name}: {what}" for name, what in missing.items()]
    for name in missing:
        said = f"{name} is not set; it holds a secret that this script needs"
        lines.append(f"if (-not $env:{name}) {{ [Console]::Error.WriteLine('{said}'); exit 2 }}")
    return "".join(f"{line}\n" for line in lines)


def _environment(plan: LaunchPlan, node: NodePlan, launch: NodeCommand) -> dict[str, str | None]:
    """Return what the ranks find, as torchrun would set it; None for a variable that the reader sets."""
    shown = launch.shown_env
    ours: dict[str, str | None] = {
        name: None if shown[name] != value else value
        for name, value in launch.env.items()
        if name not in _LINUX and not name.startswith("NCCL_")
    }
    threads = {"OMP_NUM_THREADS": "1"} if node.nproc_per_node > 1 else {}
    precision = {"ACCELERATE_MIXED_PRECISION": plan.spec.mixed_precision}
    return {
        "USE_LIBUV": "0",
        **threads,
        **(precision if plan.spec.launcher == "accelerate" else {}),
        **ours,
        "ORCH_BACKEND": "gloo",
        "MASTER_ADDR": plan.master_addr,
        "MASTER_PORT": str(plan.master_port),
        "WORLD_SIZE": str(plan.world_size),
        "LOCAL_WORLD_SIZE": str(node.nproc_per_node),
        "GROUP_RANK": str(node.node_rank),
        "GROUP_WORLD_SIZE": str(len(plan.nodes)),
    }


def _variables(env: Mapping[str, str | None]) -> str:
    return "".join(f"$env:{name} = {ps1_word(value)}\n" for name, value in env.items() if value is not None)


def _run(argv: Iterable[Word], python: str, node: NodePlan) -> str:
    taken = [f"$env:{word.variable}" if word.variable else ps1_word(word.text) for word in argv]
    return _START.format(
        plain=PLAIN,
        before=BEFORE_QUOTE,
        end=AT_END,
        words="\n".join(f"  {word}" for word in taken),
        last=node.nproc_per_node - 1,
        first=node.first_rank,
        python=ps1_word(python),
    )


def ps1_word(word: str) -> str:
    """Return a word as a PowerShell expression; a leading ``~/`` becomes the reader's home folder.

    In single quotes every character but the quotes themselves, which are doubled, stands for itself.
    """
    head, tilde, rest = word.partition("~/")
    if tilde and (head == "" or head.endswith("=")):
        return f"({_quoted(head)} + $HOME + {_quoted(f'/{rest}')})"
    return _quoted(word)


def _quoted(word: str) -> str:
    return "'" + _QUOTES.sub(r"\1\1", word) + "'"
