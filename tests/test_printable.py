"""Foreign names, keys and tags in output: control characters are escaped, and no name is a formula."""

import io
import json
import logging
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import evaluate, report
from jobs.cluster.driving import print_warning
from jobs.command_line.console import print_config, print_lines, run_job
from jobs.display.training import EventPrinter, print_surveys
from pipeline import errors
from pipeline.errors import LabellingError, VocabularyError
from pipeline.printable import EscapingFormatter, escape_controls
from pipeline.reports.charts import Chart, draw
from pipeline.run.config import LabelConfig
from pipeline.run.records import InputShard
from pipeline.run.vocabulary import load_vocabulary
from pipeline.training.data.survey import Survey
from pipeline.training.events import RejectedImage
from tests.factories import make_labelled_row, make_run

HOSTILE = "cat\x1b[2J\x1b]0;owned\x07\u202e\x9b31m\r\nerror: all is lost"
"""Clears the screen, sets the title, reverses the direction of text, and forges a line."""


def assert_shows_no_controls(text: str) -> None:
    assert text
    assert not [line for line in text.split("\n") if not line.isprintable()]
    assert not [line for line in text.split("\n") if line.startswith("error: all is lost")]


@given(st.text())
def test_escaped_text_is_printable_and_text_without_controls_is_unchanged(text: str) -> None:
    escaped = escape_controls(text)
    assert escaped.isprintable()
    assert escape_controls(escaped) == escaped
    if text.isprintable():
        assert escaped == text
    assert len(escaped.splitlines()) <= 1


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LabellingError)]
)
def test_message_of_every_error_of_ours_is_one_line_without_controls(kind: Any) -> None:
    assert_shows_no_controls(str(kind(f"shard '{HOSTILE}' is damaged")))
    assert "\n" not in str(kind(HOSTILE))


def test_log_line_is_one_line_and_its_traceback_has_no_controls() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(EscapingFormatter("%(levelname)s: %(message)s"))
    logger = logging.Logger("a test")
    logger.addHandler(handler)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("shard '%s' failed", HOSTILE)
    assert_shows_no_controls(stream.getvalue().partition("\n")[0])
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))


def test_jobs_print_names_and_keys_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    survey = Survey(num_samples=1, num_usable=1, unknown_tags=Counter({HOSTILE: 3}))
    print_surveys({"train": survey}, (HOSTILE, "dog"))
    EventPrinter(1, (HOSTILE,))(RejectedImage(key=HOSTILE, error=HOSTILE))
    print_warning(f"shard '{HOSTILE}' is slow")
    print_config({"out": HOSTILE, "classes": [HOSTILE]}, LabelConfig())
    print_lines(HOSTILE)
    assert run_job(lambda: load_and_fail(VocabularyError)) == 2
    assert run_job(lambda: load_and_fail(errors.StorageError)) == 1
    printed = capsys.readouterr()
    assert_shows_no_controls(printed.out)
    assert_shows_no_controls(printed.err)


def load_and_fail(kind: Any) -> Never:
    logging.getLogger("pipeline.a_test").warning("shard '%s' is slow", HOSTILE)
    raise kind(HOSTILE)


def test_page_and_scores_of_a_run_with_hostile_names_show_them_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (f"${HOSTILE}$", "<b>dog</b>")
    mask = np.ones((16, 16), dtype=np.uint8)
    rows = [make_labelled_row(HOSTILE, mask, (1,), np.ones((1, 2, 2)), tags_unknown=[HOSTILE])]
    make_run(str(tmp_path), names, {InputShard(uri="photos.tar", name="photos", size_bytes=1024, etag="e"): rows})
    assert report.main(["--labels", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert_shows_no_controls(page)
    assert "<b>dog" not in page
    (tmp_path / "truth").mkdir()
    assert evaluate.main(["--labels", str(tmp_path), "--truth", str(tmp_path / "truth")]) == 2
    printed = capsys.readouterr()
    assert_shows_no_controls(printed.out + printed.err)


@pytest.mark.parametrize("name", ["$\\frac{1}{$", "a$b$c_d^e", "_hidden", "\\alpha", "$$", "50 % & more", HOSTILE])
def test_chart_shows_names_literally(name: Any) -> None:
    chart = Chart(title=f"About {name}", unit=name, place=name, curves={name: ([1.0, 2.0], [0.1, 0.2])})
    picture = draw(chart)
    ElementTree.fromstring(picture)
    # The letters are drawn as paths; matplotlib writes the text beside them as a comment.
    shown = escape_controls(name).replace("&", "&amp;").replace("--", "- - ")
    assert picture.count(f"<!-- {shown} -->") == 3
    letters = "".join("x" if character in "$\\^_{}" else character for character in name)
    plain = replace(chart, title=f"About {letters}", unit=letters, place=letters, curves={letters: chart.curves[name]})
    assert picture.count("<use ") == draw(plain).count("<use ")


def list_glyphs(picture: Any) -> set[Any]:
    return set(re.findall(r'href="(#DejaVuSans-\w+)"', picture))


def test_numbers_at_a_logarithmic_axis_are_still_powers() -> None:
    chart = Chart(title="Loss", unit="", curves={"total": ([1.0, 2.0], [0.01, 100.0])}, is_logarithmic=True)
    dollars = list_glyphs(draw(replace(chart, unit="x$"))) - list_glyphs(draw(replace(chart, unit="x")))
    assert len(dollars) == 1
    assert not dollars & list_glyphs(draw(chart))


def test_vocabulary_with_hostile_names_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps({"classes": ["cat"], HOSTILE: []}))
    with pytest.raises(VocabularyError) as caught:
        load_vocabulary(str(path))
    assert_shows_no_controls(str(caught.value))
