"""Scripts of a plan: POSIX shell is run, PowerShell is parsed by its grammar."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.plan import LaunchPlan, Workload
from orchestrator.core.launch.script.by_hand import by_hand
from orchestrator.core.launch.script.ps1 import AT_END, BEFORE_QUOTE, PLAIN, as_ps1, ps1_scripts, ps1_word
from orchestrator.core.launch.script.sh import as_sh, sh_scripts
from orchestrator.errors import UsageError
from orchestrator.local.plan_scripts import script_folder, write_scripts
from tests.unit.launch.plans import A, B, offline, planned

OFFLINE = (
    Host("a", "a", fabric_address="10.0.0.1", env={"HF_TOKEN": "hush", "CACHE": "~/c d", "SAID": "it's"}),
    Host("b", "b", fabric_address="10.0.0.2", workdir="/w", python="~/env/bin/python", gpus=2),
)
SH = """\
#!/bin/sh
# a: node_rank 0 of 2 nodes, rank 0, run run1. Written by orch plan --format sh.
# It needs the code that orch sync puts on this machine, and nothing else of orch. The nodes wait for each other.
# ORCH_CODE=FOLDER takes the code from another folder. Its exit code is the launcher's.
set -eu

# Secrets are not written here. Set these variables first:
# HF_TOKEN: a secret variable
: "${HF_TOKEN?is not set; it holds a secret that this script needs}"
# ORCH_ARG_1: the argument --api-key=***
: "${ORCH_ARG_1?is not set; it holds a secret that this script needs}"

code="$HOME"/orch-work/project/abc
if [ -n "${ORCH_CODE-}" ]; then code=$ORCH_CODE; fi
work="$HOME"/orch-work/runs/a/run1
if [ ! -d "$work" ]; then
  for tree in "$code" "$HOME"/orch-work/project/def; do
    if [ ! -d "$tree" ]; then
      echo "$0: there is no code in $tree: run orch sync, or set ORCH_CODE to the folder with it" >&2
      exit 3
    fi
  done
  rm -rf "$work.part"
  mkdir -p "$work.part"
  chmod 700 "$work.part"
  for tree in "$code" "$HOME"/orch-work/project/def; do
    cp -RPf "$tree/." "$work.part"
    chmod -R u+w "$work.part"
  done
  mv "$work.part" "$work"
fi
mkdir -p "$HOME"/orch-work/runs/a/run1 "$HOME"/orch-work/runs/a/run1/orch-output \
"$HOME"/orch-work/runs/a/run1.logs/logs

cd "$HOME"/orch-work/runs/a/run1
exec env \\
  PYTHONUNBUFFERED=1 \\
  HF_TOKEN="${HF_TOKEN}" \\
  CACHE="$HOME"/'c d' \\
  SAID='it'"'"'s' \\
  NNODES=2 \\
  NODE_RANK=0 \\
  NPROC_PER_NODE=1 \\
  ORCH_RUN_ID=run1 \\
  ORCH_ATTEMPT=1 \\
  ORCH_NODE=a \\
  ORCH_BACKEND=gloo \\
  ORCH_DATA="$HOME"/orch-work/data \\
  ORCH_OUTPUT_DIR="$HOME"/orch-work/runs/a/run1/orch-output \\
  python3 -m torch.distributed.run --nnodes=2 --nproc_per_node=1 --node_rank=0 --master_addr=10.0.0.1 \
--master_port=29500 --max_restarts=0 --log_dir="$HOME"/orch-work/runs/a/run1.logs/logs --tee=3 \
t.py --out="$HOME"/'o~/p' 'x~/y' "${ORCH_ARG_1}" '--a b='"$HOME"/c '~'
"""
ARGS = ("--out=~/o~/p", "x~/y", "--api-key=hush", "--a b=~/c", "~")
# Prints its words and variables, then ends with a code that no shell uses.
SHOWS = "#!/bin/sh\nexec {python} -c 'import os, sys; print(ascii((sys.argv[1:], dict(os.environ)))); sys.exit(57)' \"$@\"\n"
WORDS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)
AWKWARD = st.one_of(WORDS, st.text("'\"\\$`‘’‚‛%;&|<>()@{} \n\t~/=-#", max_size=12))


def test_a_shell_script_of_a_plan_made_offline() -> None:
    made = replace(offline(*OFFLINE, args=ARGS), trees={"a": ("abc", "def"), "b": ("abc",)})
    scripts = sh_scripts(made)
    assert list(scripts) == ["run_distributed_node1.sh", "run_distributed_node2.sh"]
    assert scripts["run_distributed_node1.sh"] == SH
    second = scripts["run_distributed_node2.sh"]
    assert second.startswith("#!/bin/sh\n# b: node_rank 1 of 2 nodes, ranks 1 to 2, run run1.")
    assert 'activate="$HOME"/env/bin/activate\n' in second and "code=/w/project/abc\n" in second
    assert as_sh(made).count("#!/bin/sh\n") == 2 and "# ---- run_distributed_node2.sh\n" in as_sh(made)


def by_itself(folder: Path, program: str, **spec: object) -> LaunchPlan:
    """Return a plan of one node in ``folder``, with ``program`` as its interpreter and the code synced."""
    binaries = folder / "env dir" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").write_text(program)
    (binaries / "python").chmod(0o755)
    (binaries / "activate").write_text('PS1="$PS1"\nACTIVATED=yes\nexport ACTIVATED\n')
    code = folder / "project" / "abc"
    (code / "sub").mkdir(parents=True)
    (code / "sub" / "t.py").write_text("code")
    (code / "sub" / "t.py").chmod(0o400)
    workload = Workload("t.py", "script", "t.py", cwd="sub")
    made = planned(Host("a", "a"), workload=workload, **spec)
    node = replace(
        made.nodes[0], python=str(binaries / "python"), workdir=str(folder), work=str(folder / "runs" / "it's")
    )
    return replace(made, nodes=(node,), trees={"a": ("abc",)})


def started(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script], env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True
    )


def test_a_shell_script_runs_as_it_stands(tmp_path: Path) -> None:
    made = by_itself(tmp_path, SHOWS.format(python=sys.executable), launcher="accelerate", env={"X": "it's"})
    script = sh_scripts(made)["run_distributed_node1.sh"]
    done = started(script)
    assert done.returncode == 57, done.stderr
    argv, env = ast.literal_eval(done.stdout)
    node = by_hand(made).nodes[0]
    assert argv[:4] == [
        "-m",
        "accelerate.commands.launch",
        f"--config_file={node.attempt_dir}/accelerate.yaml",
        "--same_network",
    ]
    assert argv[4:] == [f"--log_dir={node.attempt_dir}/logs", "--tee=3", "t.py"]
    assert (env["X"], env["ACTIVATED"], env["NODE_RANK"]) == ("it's", "yes", "0") and "PET_REDIRECTS" not in env
    work = Path(node.work)
    assert (
        env["PWD"] == str(work / "sub")
        and (work / "orch-output").is_dir()
        and Path(argv[4].partition("=")[2]).is_dir()
    )
    assert "num_machines: 1\n" in Path(f"{node.attempt_dir}/accelerate.yaml").read_text()
    # The copy may be changed, and a second start goes on in it.
    assert work.stat().st_mode & 0o777 == 0o700 and (work / "sub" / "t.py").stat().st_mode & 0o200
    (work / "snapshot").write_text("")
    assert started(script).returncode == 57 and (work / "snapshot").exists()
    assert list(work.parent.glob("*.part")) == []


def test_a_shell_script_without_its_code_says_so(tmp_path: Path) -> None:
    made = by_itself(tmp_path, SHOWS.format(python=sys.executable))
    script = sh_scripts(replace(made, trees={"a": ("other",)}))["run_distributed_node1.sh"]
    refused = started(script)
    assert refused.returncode == 3 and not Path(made.nodes[0].work).exists()
    assert f"there is no code in {tmp_path}/project/other: run orch sync" in refused.stderr
    assert started(script, ORCH_CODE=str(tmp_path / "project" / "abc")).returncode == 57


@settings(max_examples=25, deadline=None)
@given(st.lists(AWKWARD, max_size=3), AWKWARD)
def test_a_shell_script_hands_over_any_word(args: list[str], value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = by_itself(Path(folder), SHOWS.format(python=sys.executable), args=tuple(args), env={"X": value})
        done = started(as_sh(made), HOME="/h", LC_ALL="C.UTF-8")
        argv, env = ast.literal_eval(done.stdout)

    def expected(word: str) -> str:
        return re.sub(r"(?s)\A(|[^~]*=|(?:(?!~/).)*=)~/", r"\1/h/", word, count=1)

    assert argv[len(argv) - len(args) :] == [expected(word) for word in args] and env["X"] == expected(value)


def parsed(script: str) -> list[str]:
    """Return what PowerShell's grammar does not accept in a script."""
    powershell = pytest.importorskip(
        "tree_sitter_powershell", reason="needs tree-sitter-powershell, of the dev extra"
    )
    tree_sitter = pytest.importorskip("tree_sitter", reason="needs tree-sitter, of the dev extra")
    data = script.encode()
    root = tree_sitter.Parser(tree_sitter.Language(powershell.language())).parse(data).root_node
    wrong, waiting = [], [root]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            wrong.append(f"line {node.start_point[0] + 1}: {data[node.start_byte : node.end_byte].decode()!r}")
        waiting += node.children
    assert wrong or not root.has_error
    return wrong


def test_the_grammar_notices_mistakes() -> None:
    script = ps1_scripts(offline(*OFFLINE))["run_distributed_node1.ps1"]
    assert parsed(script) == []
    for spoilt in (script.replace("@(\n", "@(\n'", 1), script.replace("try {", "try"), script + "}\n"):
        assert parsed(spoilt) != []


@settings(max_examples=40, deadline=None)
@given(st.lists(AWKWARD, max_size=4), AWKWARD, st.integers(1, 3))
def test_a_powershell_script_is_powershell(args: list[str], value: str, nproc: int) -> None:
    host = Host(
        "a",
        "a",
        fabric_address="10.0.0.1",
        env={"X": value},
        python="C:\\it's\\python.exe",
        workdir=f"C:\\{value}\\w",
    )
    made = offline(host, B, args=tuple(args), nproc=nproc, launcher="accelerate")
    for script in ps1_scripts(made).values():
        assert parsed(script) == []


@given(AWKWARD)
def test_powershell_reads_a_quoted_word_back(word: str) -> None:
    text = ps1_word(word)
    if text.startswith("("):
        home = re.fullmatch(r"(?s)\(('.*') \+ \$HOME \+ ('.*')\)", text)
        assert home and unquoted(home[1]) + "~" + unquoted(home[2]) == word
    else:
        assert unquoted(text) == word


def unquoted(text: str) -> str:
    """Read a PowerShell string in single quotes: any two quotes in a row are the second of them."""
    quotes = "'‘’‚‛"
    assert text[0] == "'" and text[-1] == "'"
    found, inside = [], iter(text[1:-1])
    for character in inside:
        if character in quotes:
            character = next(inside)
            assert character in quotes
        found.append(character)
    return "".join(found)


@given(AWKWARD)
def test_a_process_on_windows_gets_its_words(word: str) -> None:
    # The two replacements of ConvertTo-Argument, in Python's spelling.
    line = re.sub(BEFORE_QUOTE, r"\1\1\\" + '"', word)
    line = '"' + re.sub(AT_END.replace(r"\z", r"\Z"), r"\1\1", line) + '"'
    quoted = line if word == "" or re.search(PLAIN, word) else word
    assert as_the_c_runtime_reads(quoted) == [word]
    for pattern in (PLAIN, BEFORE_QUOTE, AT_END):
        assert f"'{pattern}'" in as_ps1(planned())


def as_the_c_runtime_reads(line: str) -> list[str]:
    """Return the words of a command line, by the rules for ``argv`` of Microsoft's C runtime."""
    found: list[str] = []
    position = 0
    while position < len(line):
        word, quoted = "", False
        while position < len(line) and (quoted or line[position] not in " \t"):
            slashes = len(re.match(r"\\*", line[position:])[0])  # type: ignore[index]
            position += slashes
            quote = position < len(line) and line[position] == '"'
            word += "\\" * (slashes // 2 if quote else slashes)
            if quote and slashes % 2:
                word, position = word + '"', position + 1
            elif quote:
                quoted, position = not quoted, position + 1
            elif not slashes:
                word, position = word + line[position], position + 1
        found.append(word)
        position = len(line) - len(line[position:].lstrip(" \t"))
    return found or [""]


def test_a_powershell_script_sets_what_torchrun_would() -> None:
    windows = Host(
        "a", "a", fabric_address="10.0.0.1", python="C:\\v\\Scripts\\python.exe", workdir="C:\\orch", gpus=2
    )
    made = offline(
        windows, replace(B, fabric_address="10.0.0.2"), args=("--api-key=hush", "it's"), env={"HF_TOKEN": "hush"}
    )
    script = ps1_scripts(made)["run_distributed_node1.ps1"]
    assert "hush" not in script and "NCCL" not in script and "torch.distributed.run" not in script
    env = dict(re.findall(r"^\$env:(\w+) = '(.*)'$", script, re.MULTILINE))
    assert env["USE_LIBUV"] == "0" and env["ORCH_BACKEND"] == "gloo" and env["OMP_NUM_THREADS"] == "1"
    place = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "NNODES")
    assert [env[name] for name in place] == ["10.0.0.1", "29500", "3", "2", "0", "0", "2"]
    assert "$env:RANK = [string](0 + $local)" in script and "in 0..1)" in script
    assert "$activate = 'C:\\v\\Scripts\\Activate.ps1'" in script
    assert "if (-not $env:HF_TOKEN)" in script and "\n  $env:ORCH_ARG_1\n  'it''s'\n" in script
    assert "#   New-NetFirewallRule " in script and "-RemoteAddress 10.0.0.1,10.0.0.2\n" in script
    assert "CreateDirectory('C:\\orch/runs/a/run1/orch-output')" in script
    second = ps1_scripts(made)["run_distributed_node2.ps1"]
    assert "$env:RANK = [string](2 + $local)" in second and "$start.FileName = 'python'\n" in second
    assert "RemoteAddress LocalSubnet" in as_ps1(offline(windows, replace(B, fabric_address=None)))


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ({"backend": "nccl"}, "there is no nccl on Windows → --backend gloo"),
        ({"rdzv_backend": "c10d"}, "c10d rendezvous does not work on Windows"),
        ({"nnodes": (1, 2)}, "leave out --rdzv options and --nnodes MIN:MAX"),
    ],
)
def test_what_windows_lacks_is_refused(asked: dict[str, object], refusal: str) -> None:
    with pytest.raises(UsageError) as error:
        as_ps1(planned(A, B, **asked))
    assert refusal in str(error.value) and "\n" not in str(error.value)


def test_scripts_are_files_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "scripts"
    with script_folder(folder):
        assert (folder / ".gitignore").read_text() == "*\n"
        files = write_scripts(folder, ps1_scripts(planned(A, B, args=("ü",))))
    assert [file.name for file in files] == ["run_distributed_node1.ps1", "run_distributed_node2.ps1"]
    # Windows PowerShell 5 takes a file without this mark for its own code page.
    assert files[0].read_bytes().startswith(b"\xef\xbb\xbf# a: ") and "'ü'" in files[0].read_text()
    assert write_scripts(folder, sh_scripts(planned()))[0].stat().st_mode & 0o111
    with pytest.raises(UsageError, match=r"run_distributed_node2\.ps1 is there, of a plan with more nodes"):
        write_scripts(folder, ps1_scripts(planned()))
    with pytest.raises(UsageError, match="cannot write"), script_folder(files[0] / "x"):
        pass
    with pytest.raises(UsageError, match="later"), script_folder(tmp_path / "unused"):
        raise UsageError("later")
    assert not (tmp_path / "unused").exists()
