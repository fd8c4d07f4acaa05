"""The documentation names what exists: files, headings, flags, modules."""

import contextlib
import importlib
import io
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import yaml

from jobs.command_line.commands import COMMANDS
from pipeline.run.config import InputConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REPOSITORY = "https://github.com/tagmask/tagmask/blob/main/"
FOREIGN_FLAGS = {"--working-dir", "--sort", "--dereference"}
"""Of `ray job submit` and of tar."""

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
OPTION = re.compile(r"^(?: {1,2}|│ )(--\S.*)", re.MULTILINE)
"""A line of `--help-all` that begins an option; what belongs to it is indented further."""
COMMAND = re.compile(r"(?:\btagmask|python -m jobs\.)\s?([a-z][a-z_-]*)([^\n`]*)")
BENCHMARK = re.compile(r"python -m benchmarks\.(\w+)([^\n`]*)")
FENCE = re.compile(r"^(```.*?^```|(?: {4}.*\n)+)", re.MULTILINE | re.DOTALL)

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read_commands(page: Path) -> str:
    """The text of a page with continued lines joined."""
    return re.sub(r"\\\n[ #]*", " ", page.read_text())


def list_links(page: Path) -> Iterator[str]:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    yield from (match[1] for match in LINK.finditer(text))


@cache
def list_anchors(page: Path) -> frozenset[str]:
    """Anchors of the headings of a page, where GitHub and the site agree on them."""
    headings = re.findall(r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    plain = [
        re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)).strip().lower() for text in headings
    ]
    on_github = {text.replace(" ", "-") for text in plain}
    on_site = {re.sub(r"[-\s]+", "-", text) for text in plain}
    return frozenset(on_github & on_site)


@cache
def list_flags(command: str) -> frozenset[str]:
    """Flags of a command, as its own parser lists them."""
    module = importlib.import_module(f"jobs.{command.replace('-', '_')}")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit):
            module.main(["--help-all"])
    options = (match[1].partition("  ")[0] for match in OPTION.finditer(printed.getvalue()))
    flags = {flag for option in options for flag in FLAG.findall(option)}
    assert {"--out", "--labels", "--json"} & flags
    # Training takes options of the inputs with their prefix, too.
    inputs = (
        {f"--inputs.{field.name.replace('_', '-')}" for field in fields(InputConfig)} if command == "train" else set()
    )
    return frozenset(flags | inputs | {"--help", "--help-all"})


@by_page
def test_links_of_a_page_lead_to_files_and_headings_that_exist(page: Path) -> None:
    dead = []
    for link in list_links(page):
        path, _, anchor = link.removeprefix(REPOSITORY).partition("#")
        if path.startswith(("http://", "https://")):
            continue
        start = ROOT if link.startswith(REPOSITORY) else page.parent
        target = (start / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            dead.append(link)
    assert not dead


@by_page
def test_pages_of_the_site_link_to_files_outside_of_it_by_their_address(page: Path) -> None:
    docs = ROOT / "docs"
    if not page.is_relative_to(docs):
        return
    local = [link.partition("#")[0] for link in list_links(page) if not link.startswith("http")]
    assert all((page.parent / path).resolve().is_relative_to(docs) for path in local)


@by_page
def test_flags_in_the_commands_of_a_page_are_flags_of_that_command(page: Path) -> None:
    wrong = []
    for match in COMMAND.finditer(read_commands(page)):
        command = match[1].replace("_", "-")
        if command in COMMANDS:
            wrong += [(command, flag) for flag in FLAG.findall(match[2]) if flag not in list_flags(command)]
    assert not wrong


@by_page
def test_flags_in_the_text_of_a_page_are_flags_of_some_command(page: Path) -> None:
    text = BENCHMARK.sub("", read_commands(page))
    known = FOREIGN_FLAGS.union(*map(list_flags, COMMANDS))
    unknown = set(FLAG.findall(text)) - known
    assert not unknown


@by_page
def test_flags_of_benchmarks_in_a_page_exist(page: Path) -> None:
    for match in BENCHMARK.finditer(read_commands(page)):
        source = (ROOT / "benchmarks" / f"{match[1]}.py").read_text()
        for flag in FLAG.findall(match[2]):
            assert re.search(rf"\b{flag[2:].replace('-', '_')}\b", source), flag


@by_page
def test_files_and_folders_that_a_page_names_exist(page: Path) -> None:
    names = re.findall(r"`((?:pipeline|models|jobs|tests|benchmarks)/[\w/.-]*)`", page.read_text())
    assert not [name for name in names if not (ROOT / name).exists()]


def test_commands_that_pages_name_exist() -> None:
    named = {
        (page.name, match)
        for page in PAGES
        for match in re.findall(r"`tagmask ([a-z][a-z-]*)", page.read_text())
        if match not in COMMANDS
    }
    assert not named


def test_navigation_of_the_site_has_every_page_once() -> None:
    def flatten(item: object) -> list[str]:
        if isinstance(item, dict):
            return [path for value in item.values() for path in flatten(value)]
        return [path for part in item for path in flatten(part)] if isinstance(item, list) else [str(item)]

    navigation = yaml.safe_load((ROOT / ".mkdocs.yml").read_text())["nav"]
    docs = ROOT / "docs"
    assert sorted(flatten(navigation)) == sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))


def test_api_pages_cover_every_folder_of_the_packages() -> None:
    written = " ".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    named = re.findall(r"^::: ([\w.]+)$", written, re.M)
    folders = {f"pipeline.{path.parent.name}" for path in (ROOT / "pipeline").glob("*/__init__.py")}
    modules = {f"pipeline.{path.stem}" for path in (ROOT / "pipeline").glob("[!_]*.py")}
    assert sorted(named) == sorted(folders | modules | {"models"})


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
