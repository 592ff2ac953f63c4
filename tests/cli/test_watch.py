"""The command that watches a PACS, with a packed model and the real Orthanc."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orthanc_server as tools
import pydicom
import pytest

from prostate_alm.cli import main

pytestmark = pytest.mark.usefixtures("own_temporary_folder")


def test_a_packed_model_answers_from_the_command_line(
    server: Any, packed_file: Path, phantom_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.upload(pydicom.dcmread(path) for path in sorted(phantom_study.glob("*/*.dcm")))
    refused = server.upload(tools.small_study("NO-DIFFUSION", b_values=()))
    server.settle()
    (study,) = {*server.get("/studies")} - {refused}
    arguments = [
        "watch",
        server.url,
        "--model",
        str(packed_file),
        "--once",
        "--quiet",
        "0",
        "--interval",
        "0.1",
        "--json",
    ]
    heartbeat = tmp_path / "heartbeat"
    assert main([*arguments, "--heartbeat", str(heartbeat)]) == 1
    output = capsys.readouterr()
    lines = {line["study"]: (line["state"], line["code"]) for line in map(json.loads, output.out.splitlines())}
    assert lines == {study: ("done", "answered"), refused: ("set_aside", "no_diffusion")}
    assert output.err.endswith("Research use only, not for diagnosis.\n")
    assert heartbeat.exists()
    counts = server.modalities(study)
    assert (counts["SR"], counts["OT"]) == (1, 1)
    server.settle()
    assert main(arguments) == 0
    assert main([*arguments, "--redo", study]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert server.modalities(study) == counts
    for _ in range(2):  # asked for, what the model looked at is stored beside what is there, once
        assert main([*arguments, "--saliency", "--redo", study]) == 0
        server.settle()
        assert server.modalities(study) == counts | {"OT": 2}
    capsys.readouterr()
    assert "SR" not in server.modalities(refused)
    for _ in range(2):  # asked for, a refusal is told in the study itself, once
        assert main([*arguments, "--report-refusals", "--redo", refused]) == 1
        server.settle()
        assert server.modalities(refused)["SR"] == 1
    assert '"no_diffusion"' in capsys.readouterr().out
    assert main([*arguments, "--redo", "nobody"]) == 2
    assert "study must be in the server, got nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://me:secret@127.0.0.1", "--model", "x.zip"], "no user or password"),
        (["http://127.0.0.1", "--model", "x.zip", "--interval", "0"], "interval_s must be at least 0.01"),
        (["http://127.0.0.1", "--model", "x.zip", "--user", "me"], "user and password must come together"),
        (["http://127.0.0.1", "--model", "x.zip", "--ca-file", "absent.pem"], "ca_file must be a PEM file"),
        (["http://127.0.0.1", "--model", "absent.zip"], "absent.zip"),
    ],
)
def test_a_wrong_command_line_is_one_line_without_secrets(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "secret" not in line
