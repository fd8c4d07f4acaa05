"""What decisions of reviewers do in other commands, and the command that takes them."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from jobs.command_line.commands import main
from pipeline.published.decisions import RowId, read_decisions
from tests.review.real_run import make_reviewed_run, serve

ROOT = Path(__file__).parents[2]
NUM_LABELLED = 23


def count_samples(run_uri: str, path: Path) -> int:
    assert main(["calibrate", "--labels", run_uri, "--out", str(path)]) == 0
    return int(json.loads(path.read_text())["figures"]["num_images"])


def test_calibration_leaves_out_what_reviewers_refused_or_found_wrongly_tagged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_uri = make_reviewed_run(tmp_path, str(tmp_path / "out"))
    assert count_samples(run_uri, tmp_path / "all.json") == NUM_LABELLED
    verdicts = ("refuse", "wrong_tag", "accept", "missing_tag", "redraw")
    with serve(run_uri) as client:
        for place, verdict in enumerate(verdicts):
            client.ask("/api/decisions", "POST", {"id": f"turned/{place}", "decision": verdict})
    assert count_samples(run_uri, tmp_path / "some.json") == NUM_LABELLED - 2
    assert "2 rows are left out, which reviewers refused or found wrongly tagged" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_command_serves_until_it_is_stopped_and_keeps_what_it_answered(tmp_path: Path, number: signal.Signals) -> None:
    run_uri = make_reviewed_run(tmp_path, str(tmp_path / "out"))
    words = [sys.executable, "-m", "jobs.review", "--labels", run_uri, "--reviewer", "ada", "--labels", run_uri]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout is not None
        address, _, token = server.stdout.readline().strip().partition("/?token=")
        body = json.dumps({"id": "turned/3", "decision": "accept"}).encode()
        headers = {"X-Tagmask-Token": token, "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{address}/api/decisions", body, headers)) as reply:
            assert reply.status == 200
        server.send_signal(number)
        rest = server.stdout.read()
    assert list(read_decisions(run_uri)) == [RowId("turned", 3)]
    if number != signal.SIGKILL:
        assert server.returncode == 0
        assert "1 decisions in this session; all in all 1 accept" in rest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--labels", "nothing/there"), "nothing/there"),
        (("--labels", "a", "--labels", "b", "--labels", "c"), "need --labels once or twice, got 3 runs"),
        (("--labels", "a", "--port", "70000"), "need --port from 0 to 65535"),
    ],
)
def test_wrong_commands_end_at_once(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    assert main(["review", *words]) == 2
    assert said in capsys.readouterr().err


def test_wrong_reviewer_and_taken_port_end_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_uri = make_reviewed_run(tmp_path, str(tmp_path / "out"))
    assert main(["review", "--labels", run_uri, "--reviewer", "a\nb"]) == 2
    with serve(run_uri) as client:
        port = str(client.server.server_address[1])
        assert main(["review", "--labels", run_uri, "--reviewer", "ada", "--port", port]) == 2
    assert f"cannot listen at 127.0.0.1, port {port}" in capsys.readouterr().err
    assert not Path(run_uri, "reviews").exists()
