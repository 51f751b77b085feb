"""Secrets: nothing that is shown or recorded holds one, and the launched command gets it unchanged."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from docs.examples import healthy, with_part
from orchestrator.cli.launching import _variable
from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.report import as_json
from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.launch.command import command
from orchestrator.core.launch.plan import LaunchPlan, RunSpec, Workload, assumed_facts, plan
from orchestrator.core.launch.script.sh import as_sh
from orchestrator.core.text.secret import masked, masked_line, masked_words, redacted
from orchestrator.errors import InventoryError, SyncError, UsageError
from orchestrator.local.run_folder import RunFolder
from orchestrator.ui.display import Display
from orchestrator.ui.html import as_html
from orchestrator.ui.plan import show_plan, show_settings

ARGS = (
    "--hf-token",
    "hush1",
    "--api_key=hush2",
    "+wandb.api_key=hush3",
    "--url",
    "redis://:hush4@h/0",
    "--lr",
    "0.1",
)
ENV = {
    "DATABASE": "postgres://me:hush5@db/x",
    "WANDB_API_KEY": "hush6",
    "SSH_PASSPHRASE": "hush7",
    "PLAIN": "shown",
}


def planned() -> LaunchPlan:
    host = Host("a", "10.0.0.1", fabric_address="10.0.0.1", env={"PGURL": "postgres://me@x:hush8@db/x"})
    spec = RunSpec(Workload("t.py", "script", "t.py"), ARGS, env=ENV)
    return plan([host], Rendezvous(), spec, {"a": assumed_facts(host)}, "run-1")


@pytest.mark.parametrize("form", ["table", "json", "sh", "ps1"])
def test_no_form_of_a_plan_shows_a_secret(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = planned()
    show_plan(Display(), made, form)
    show_settings(Display(), made, [])
    shown = "".join(capsys.readouterr())
    assert "hush" not in shown
    assert "--lr" in shown and "PLAIN" in shown
    # The launched command has them all.
    launch = command(made, made.nodes[0])
    assert launch.argv[-8:] == ARGS
    assert {name: launch.env[name] for name in ENV} == ENV


def test_what_a_run_records_here_holds_no_secret(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, planned()).close()
    text = (tmp_path / "run-1" / "plan.json").read_text()
    assert "hush" not in text
    shown = json.loads(text)
    assert shown["nodes"][0]["env"]["DATABASE"] == "postgres://me:***@db/x"
    assert shown["spec"]["args"][:2] == ["--hf-token", "***"]


def test_a_script_takes_its_secrets_from_the_reader(tmp_path: Path) -> None:
    shows = tmp_path / "python"
    shows.write_text('#!/bin/sh\nenv; printf "<%s>\\n" "$@"\n')
    shows.chmod(0o755)
    made = planned()
    nodes = [replace(made.nodes[0], python=str(shows), work=str(tmp_path / "work"), workdir=str(tmp_path))]
    (tmp_path / made.spec.workload.project).mkdir()
    script = as_sh(replace(made, nodes=tuple(nodes)))
    given = {"DATABASE": "postgres://me:mine@db/x", "WANDB_API_KEY": "mine", "PATH": "/usr/bin:/bin"}
    refused = subprocess.run(["sh", "-c", script], env=given, capture_output=True, text=True)
    assert (refused.returncode == 2 and "SSH_PASSPHRASE" in refused.stderr) or "PGURL" in refused.stderr
    given |= {"PGURL": "mine-too", "SSH_PASSPHRASE": "", "ORCH_ARG_1": "w 1", "ORCH_ARG_2": "--api_key=w2"}
    given |= {"ORCH_ARG_3": "w3", "ORCH_ARG_4": "w4"}
    done = subprocess.run(["sh", "-c", script], env=given, capture_output=True, text=True, check=True)
    assert "DATABASE=postgres://me:mine@db/x\n" in done.stdout
    assert "WANDB_API_KEY=mine\n" in done.stdout
    assert "<--hf-token>\n<w 1>\n<--api_key=w2>\n<w3>\n<--url>\n<w4>\n<--lr>\n<0.1>\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--token", "x y"], ["--token", "***"]),
        (["-token", "x"], ["-token", "***"]),
        (["--Api-Key=x=y"], ["--Api-Key=***"]),
        (["--apikey", "x"], ["--apikey", "***"]),
        (["--aws-access-key", "x"], ["--aws-access-key", "***"]),
        (["--db.password", "x"], ["--db.password", "***"]),
        (["--credentials=x"], ["--credentials=***"]),
        (["env.HF_TOKEN=x"], ["env.HF_TOKEN=***"]),
        (["--use-auth-token", "--lr", "1"], ["--use-auth-token", "--lr", "1"]),
        (["--max-tokens", "4096", "--tokens=1e6"], ["--max-tokens", "4096", "--tokens=1e6"]),
        (["--api-tokens", "x"], ["--api-tokens", "***"]),
        (["--tokenizer", "gpt2", "--tokenizer_path=x"], ["--tokenizer", "gpt2", "--tokenizer_path=x"]),
        (["--key", "hf_" + "a" * 30], ["--key", "***"]),
        (["token", "x"], ["token", "x"]),
        (["--pad-token", "p", "--mask_token=m"], ["--pad-token", "p", "--mask_token=m"]),
        (["--token"], ["--token"]),
    ],
)
def test_words_of_a_command_line(words: list[str], shown: list[str]) -> None:
    assert masked_words(words) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://me:p@ss:w@host:9000/x?a=1", "s3://me:***@host:9000/x?a=1"),
        ("see https://oauth2:x@git/y, ssh://me@host", "see https://oauth2:***@git/y, ssh://me@host"),
        (f"https://{'t' * 30}@git/y", "https://***@git/y"),
        ("https://b/x?se=1&sig=abc%3D&token=y", "https://b/x?se=1&sig=***&token=***"),
        ('"http://u:p@h"', '"http://u:***@h"'),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("tcp://10.0.0.1:29500", "tcp://10.0.0.1:29500"),
        ("a " + "ghp_" + "A" * 36 + ".", "a ***."),
    ],
)
def test_secrets_by_their_look(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_variables() -> None:
    env = {
        "HF_TOKEN": "x",
        "TOKENIZERS_PARALLELISM": "false",
        "MAX_TOKENS": "10",
        "API_TOKENS": "a,b",
        "A_KEY": "k",
    }
    assert redacted(env) == {**env, "HF_TOKEN": "***", "API_TOKENS": "***", "A_KEY": "***"}


def test_doctor_tells_no_secret() -> None:
    foreign = "python3 -m torch.distributed.run t.py --token hush1 --url http://u:hush2@h"
    seen = with_part(healthy(), "node2", "torchruns", [[7, 0, foreign]])
    hosts = tuple(replace(each, env={"PROXY": "http://u:hush3@p"}) for each in seen.hosts)
    seen = replace(seen, hosts=hosts, requirements=("x @ https://u:hush4@git/x",))
    findings = check(seen)
    error = SyncError("https://u:hush5@index refused it", host="node3")
    for text in (as_json(seen, findings, [error]), as_html(seen, findings, [error]), *map(str, findings)):
        assert "hush" not in text
    assert "--token ***" in as_json(seen, findings, [])
    assert masked_line("a  b --token=x") == "a  b --token=***"


def test_an_error_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    Display().error(SyncError("https://u:hush@index refused it"))
    assert capsys.readouterr().err == "error: https://u:***@index refused it\n"
    with pytest.raises(InventoryError) as caught:
        parse_inventory("hosts: {a: {env: {HF_TOKEN: [hush], URL: [http://u:hush@h]}}}")
    assert "hush" not in str(caught.value)


def test_a_variable_by_its_name_alone_is_taken_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_TOKEN", "a=b c")
    assert _variable("THE_TOKEN") == ("THE_TOKEN", "a=b c")
    assert _variable("THE_TOKEN=") == ("THE_TOKEN", "")
    monkeypatch.delenv("THE_TOKEN")
    with pytest.raises(UsageError, match="--env THE_TOKEN: not set on this machine") as caught:
        _variable("THE_TOKEN")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        _variable("THE-TOKEN=hush")
    assert "hush" not in str(caught.value)
