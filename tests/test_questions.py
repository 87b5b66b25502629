"""The readers' questions: what the page points at is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from docutils.nodes import make_id


ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "back" / "questions.md"
TEST = re.compile(r"(tests/\w+\.py)::(\w+)")
LINK = re.compile(r"\[([^\]]+)\]\((\S+?)\.html#(\S+?)\)\{\.external\}")
CHAPTER = re.compile(r"\{doc\}`(/\S+?)`")


def questions() -> dict[int, str]:
    """The text under each numbered heading."""
    parts = re.split(
        r"^## (\d+)\. ", PAGE.read_text(encoding="utf-8"), flags=re.M
    )
    return dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))


@cache
def defined_in(path: str) -> set[str]:
    """The names of the functions that a test file defines."""
    source = (ROOT / path).read_text(encoding="utf-8")
    return {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }


@cache
def headings(chapter: Path) -> set[str]:
    text = chapter.read_text(encoding="utf-8")
    cells_left_out = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)
    return set(re.findall(r"^#+ (.+)$", cells_left_out, re.M))


def test_questions_are_numbered_from_one():
    numbers = list(questions())
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 16


@pytest.mark.parametrize("number", questions())
def test_each_question_has_a_chapter_and_a_test(number):
    text = questions()[number]
    assert CHAPTER.search(text), "no chapter is linked"
    assert LINK.search(text), "no section is linked"
    assert TEST.search(text), "no test is named"


@pytest.mark.parametrize("number", questions())
def test_each_chapter_is_there(number):
    for chapter in CHAPTER.findall(questions()[number]):
        assert (ROOT / f"book{chapter}.md").is_file(), chapter


@pytest.mark.parametrize("number", questions())
def test_each_section_is_there(number):
    for title, page, anchor in LINK.findall(questions()[number]):
        chapter = (PAGE.parent / f"{page}.md").resolve()
        assert title in headings(chapter), f"{title} in {chapter.name}"
        # An apostrophe is curled on the page, and then left out of the anchor.
        assert make_id(title.replace("'", "")) == anchor


@pytest.mark.parametrize("number", questions())
def test_each_test_is_there(number):
    for path, name in TEST.findall(questions()[number]):
        assert name.startswith("test_")
        assert (ROOT / path).is_file(), path
        assert name in defined_in(path), f"{path}::{name}"


def test_nothing_is_written_so_that_it_would_not_be_checked():
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("](") == len(LINK.findall(text))
    assert text.count("::") == len(TEST.findall(text))


def test_each_test_that_a_chapter_names_is_there():
    chapters = sorted((ROOT / "book").glob("*/*.md"))
    named = {
        (path, name, chapter.name)
        for chapter in chapters
        for path, name in TEST.findall(chapter.read_text(encoding="utf-8"))
    }
    assert {chapter for *_, chapter in named} >= {"library.md", PAGE.name}
    for path, name, chapter in named:
        assert name.startswith("test_"), f"{chapter}: {name}"
        assert (ROOT / path).is_file(), f"{chapter}: {path}"
        assert name in defined_in(path), f"{chapter}: {path}::{name}"
