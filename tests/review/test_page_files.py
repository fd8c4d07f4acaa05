"""Files of the page: only they are sent, and nothing in them comes from elsewhere."""

import re

import pytest

from pipeline.review.page_files import PAGE_HEADERS, list_page_files, read_page_file


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../page_files.py", "page_files.py", "/etc/passwd", "index.html/", "x\0"]
)
def test_a_name_that_is_no_file_of_the_page_is_refused(name: str) -> None:
    with pytest.raises(KeyError):
        read_page_file(name)


def test_every_address_in_the_page_and_its_modules_is_a_file_of_it() -> None:
    html = read_page_file("index.html").content.decode()
    named = set(re.findall(r'(?:href|src)="/static/([^"]+)"', html))
    for name in list_page_files():
        if name.endswith(".js"):
            named |= set(re.findall(r'from "\./([^"]+)"', read_page_file(name).content.decode()))
    assert named == list_page_files() - {"index.html"}


def test_the_page_holds_no_script_style_or_handler_that_its_policy_forbids() -> None:
    html = read_page_file("index.html").content.decode()
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=", html) == []
    assert PAGE_HEADERS["Content-Security-Policy"].startswith("default-src 'self'")
    assert "unsafe" not in PAGE_HEADERS["Content-Security-Policy"]


def test_modules_turn_no_text_into_html_and_name_no_other_server() -> None:
    for name in list_page_files():
        text = read_page_file(name).content.decode()
        assert (
            re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text) == []
        ), name
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == [], name


def test_files_have_the_media_types_and_etags_that_browsers_need() -> None:
    assert read_page_file("main.js").media_type.startswith("text/javascript")
    assert read_page_file("base.css").media_type.startswith("text/css")
    etags = {read_page_file(name).etag for name in list_page_files()}
    assert len(etags) == len(list_page_files())
    assert all(re.fullmatch(r'"[0-9a-f]{16}"', etag) for etag in etags)
