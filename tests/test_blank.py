"""The blank page: what a reader is given, and what its judge says of it.

pytest runs pytest here, with --package: once by default, and once a chapter
in the slow test, which puts the book's own bodies back on the way.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tangle


ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    f"book/{page}.md"
    for page in tangle.toc_names(ROOT / "_toc.yml")
    if tangle.GROUND.match(f"book/{page}.md")
    and (ROOT / "cnn" / f"{Path(page).stem}.py").exists()
]


def module(page: str) -> str:
    """book/layers/relu.md -> cnn/relu.py."""
    return f"cnn/{Path(page).stem}.py"


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions and methods of a module, by name."""
    for node in tree.body:
        within = node.body if isinstance(node, ast.ClassDef) else [node]
        for item in within:
            if isinstance(item, ast.FunctionDef):
                owner = f"{node.name}." if node is not item else ""
                yield owner + item.name, item


def stubs(text: str) -> set[str]:
    """The functions whose body says that they are not yet there."""
    return {
        name
        for name, node in functions(ast.parse(text))
        if "is not yet there" in ast.unparse(node)
    }


@dataclass(frozen=True)
class Verdict:
    """What the judge said: outcome of each test, and what it printed."""

    found: dict[str, str]  # test -> "right", "wrong" or what it waits for
    page: dict[str, str]  # test -> the chapter that it is of
    printed: str
    status: int


def judge(folder: Path, *tests: str) -> Verdict:
    """Run `pytest --package folder` in a process of its own."""
    report, chosen = folder / "report.xml", folder / "tests"
    chosen.write_text("\n".join(tests))  # too many for a command line
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", f"--package={folder}"),
            *(f"--junitxml={report}", "-p", "no:cacheprovider"),
            *([f"@{chosen}"] if tests else []),
        ],
        cwd=ROOT,
        env=os.environ | {"HYPOTHESIS_PROFILE": "glance"},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found, page = {}, {}
    for case in ET.parse(report).iter("testcase"):
        file = str(case.get("classname")).replace(".", "/")
        name = f"{file}.py::{case.get('name')}"
        assert name not in found
        values = {p.get("name"): p.get("value") for p in case.iter("property")}
        page[name] = str(values.get("page"))
        found[name] = "right"
        for kind in ("failure", "error"):
            if case.find(kind) is not None:
                found[name] = "wrong"
        if (skipped := case.find("skipped")) is not None:
            found[name] = str(skipped.get("message"))
    return Verdict(found, page, done.stdout, done.returncode)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The blank page, all of it."""
    folder = tmp_path_factory.mktemp("blank") / "mine"
    tangle.blank(ROOT, folder)
    return folder


# --- what a reader is given -------------------------------------------------


def test_nothing_but_what_the_ground_floor_derives_is_taken_out() -> None:
    book, mine = tangle.tangle(ROOT), tangle.blank_texts(ROOT)
    assert mine.keys() == book.keys()
    ground = set(map(module, PAGES))
    for name in book:
        whole = dict(functions(ast.parse(book[name])))
        left = dict(functions(ast.parse(mine[name])))
        assert whole.keys() == left.keys()
        out = stubs(mine[name])
        assert bool(out) == (name in ground), name
        for function, node in left.items():
            before = whole[function]
            assert ast.unparse(node.args) == ast.unparse(before.args)
            assert ast.get_docstring(node) == ast.get_docstring(before)
            if function not in out:
                assert ast.unparse(node) == ast.unparse(before)
                continue
            # The docstring, the checks, a name for what they are given, and
            # nothing behind them.
            *kept, stub = map(ast.unparse, node.body)
            assert kept == list(map(ast.unparse, before.body))[: len(kept)]
            assert stub.startswith("raise NotImplementedError")
            told = ast.get_docstring(node) is not None
            checks = ["ValueError" in x or "check_" in x for x in kept[told:]]
            assert all(checks[-1:])
            for node, check in zip(before.body[told:], checks, strict=False):
                assert check or isinstance(node, ast.Assign)
                calls = (isinstance(n, ast.Call) for n in ast.walk(node))
                assert check or not any(calls)


def test_what_has_an_equation_or_does_a_layers_work_is_taken_out() -> None:
    mine = tangle.blank_texts(ROOT)
    for page in PAGES:
        out = stubs(mine[module(page)])
        for name, node in functions(ast.parse(mine[module(page)])):
            equation = "Equation" in (ast.get_docstring(node) or "")
            work = re.search(
                r"\.(forward|backward|backward_par\w+|step)$", name
            )
            promise = ast.unparse(node.body[-1]) == "raise NotImplementedError"
            expected = bool(equation or work) and not promise
            assert (name in out) == expected, name
    assert {"Linear.forward", "SGD.step", "conv2d"} <= set().union(
        *map(stubs, mine.values())
    )


def test_each_stub_says_where_it_is_derived() -> None:
    chapters = tangle.read_chapters(ROOT)
    mine = tangle.blank_texts(ROOT)
    for page in PAGES:
        text = mine[module(page)]
        assert all(len(line) < 80 for line in text.splitlines())
        for name, node in functions(ast.parse(text)):
            if name not in stubs(text):
                continue
            message = ast.literal_eval(node.body[-1].exc.args[0])
            equations = re.findall(r"eq-[\w-]+", message)
            heading = re.search(
                r"Derived in '(.*)', (book/.*\.md)\.$", message
            )
            assert heading is not None, message
            assert heading[2] == page
            assert f"# {heading[1]}\n" in chapters[page]
            for equation in equations:
                assert f"({equation})\n" in chapters[page]
            if "Equation" in (ast.get_docstring(node) or ""):
                assert equations, message


def test_upto_leaves_a_chapter_and_those_before_it_whole() -> None:
    book = tangle.tangle(ROOT)
    for index, page in enumerate(PAGES):
        upto = page.removeprefix("book/").removesuffix(".md")
        mine = tangle.blank_texts(ROOT, upto)
        for other in PAGES:
            whole = ast.dump(ast.parse(mine[module(other)])) == ast.dump(
                ast.parse(book[module(other)])
            )
            assert whole == (other in PAGES[: index + 1]), (page, other)


@pytest.mark.parametrize("upto", ["layers/loss.md", "beyond/fast", "nowhere"])
def test_upto_what_is_no_chapter_of_the_ground_floor(upto: str) -> None:
    with pytest.raises(tangle.TangleError, match="expected one of foundat"):
        tangle.blank_texts(ROOT, upto)


def test_what_a_reader_wrote_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(tangle.TangleError, match="would be lost"):
        tangle.blank(ROOT, tmp_path)
    with pytest.raises(tangle.TangleError, match="would be lost"):
        tangle.blank(ROOT, tmp_path / "notes")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


# --- what the judge says ----------------------------------------------------


def test_with_nothing_filled_in_all_is_not_yet_there(blank: Path) -> None:
    verdict = judge(blank)
    assert verdict.status == 0, verdict.printed
    assert "wrong" not in verdict.found.values(), verdict.printed
    assert not re.search(r"\d+ errors?|Traceback", verdict.printed)
    waits = [said for said in verdict.found.values() if said != "right"]
    assert len(waits) > 300
    assert all("is not yet there." in said for said in waits)
    for page in PAGES:
        names = stubs((blank / module(page)).read_text())
        assert names, page
        for name in names:
            assert f"not yet there: {name}." in verdict.printed
        counts = re.search(rf" {page} +(.*)", verdict.printed)
        assert counts is not None
        assert re.search(r"\d+ not yet there", counts[1])
    assert "All is right" not in verdict.printed


def fill(text: str, name: str, body: str) -> str:
    """Put a body in the place of the last statement of a function."""
    node = dict(functions(ast.parse(text)))[name]
    lines = text.splitlines(keepends=True)
    lines[node.body[-1].lineno - 1 : node.end_lineno] = [body]
    return "".join(lines)


def test_what_is_wrong_is_told_from_what_is_missing(tmp_path: Path) -> None:
    tangle.blank(ROOT, tmp_path / "mine", "layers/relu")
    page = "book/layers/relu.md"
    path = tmp_path / "mine" / module(page)
    wrong_body = "    return grad_output\n"
    path.write_text(fill(path.read_text(), "relu_backward", wrong_body))
    verdict = judge(tmp_path / "mine", "tests/test_relu.py")
    assert verdict.status == 1
    wrong = {name for name, said in verdict.found.items() if said == "wrong"}
    assert len(wrong) >= 4
    assert {verdict.page[name] for name in wrong} == {page}
    for name in wrong:
        assert f"wrong: {name.split('::')[1]}" in verdict.printed
    assert re.search(
        rf" {page} +\d+ right, {len(wrong)} wrong\n", verdict.printed
    )


# --- the road ---------------------------------------------------------------

ROAD = (ROOT / "book" / "back" / "blank.md").read_text(encoding="utf-8")


def test_the_road_names_all_that_is_to_be_written() -> None:
    rows = re.findall(r"^\d+\. (.*?): (.*?)\. \*.*\*$", ROAD, re.M)
    assert len(rows) == 12
    mine, met = tangle.blank_texts(ROOT), []
    for files, names in rows:
        met += files.split(", ")
        expected = {
            owner if function in ("forward", "backward") else name
            for file in files.split(", ")
            for name in stubs(mine[f"cnn/{file[1:-1]}"])
            for owner, _, function in [name.rpartition(".")]
            if function != "backward_parameters" or owner == "Layer"
        }
        given = set(re.findall(r"`(.*?)`", names))
        assert given == expected, f"book/back/blank.md names {given}"
    assert met == [f"`{Path(page).stem}.py`" for page in PAGES]


def test_the_first_step_goes_as_it_is_told(blank: Path) -> None:
    """What the page shows: the stub, a first attempt, and what is right."""
    blocks = re.findall(r"```python\n(.*?)```", ROAD, re.S)
    stub, first, second, mean = blocks
    said = re.findall(r"```text\n(.*?)```", ROAD, re.S)
    path = blank / "cnn" / "data.py"
    text = path.read_text()
    assert stub in text
    try:
        for scale, lines in ((first, said), (second, [])):
            path.write_text(
                fill(fill(text, "scale", scale), "mean_and_std", mean)
            )
            verdict = judge(blank, "--chapter=foundations/data")
            wrong = [s for s in verdict.found.values() if s == "wrong"]
            assert len(wrong) == len(lines), verdict.printed
            assert all(line in verdict.printed for line in lines)
            assert set(verdict.found.values()) <= {"right", "wrong"}
            assert set(verdict.page.values()) == {PAGES[0]}
    finally:
        path.write_text(text)


@pytest.mark.parametrize(
    ("package", "chapter", "said"),
    [
        ("none", "foundations/data", "there is no none/cnn; expected"),
        (".", "layers/lineal", "given layers/lineal; expected one of found"),
    ],
)
def test_what_there_is_not_to_judge_is_named(
    package: str, chapter: str, said: str
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", f"--package={package}"),
            f"--chapter={chapter}",
            "conftest.py",  # not tests/, which would import PyTorch
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chapter=layers/relu"], "Add --package mine"),
        (["--package=.", "-n", "2"], "Leave -n out"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], said: str
) -> None:
    done = subprocess.run(
        [*(sys.executable, "-m", "pytest"), *options, "conftest.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert said in done.stderr


@pytest.mark.slow
def test_chapter_by_chapter_exactly_its_tests_turn_green(
    blank: Path, tmp_path: Path
) -> None:
    """It shows as well that no chapter needs a later one.

    A test of an earlier chapter that waits for a later one turns green there.
    """
    found = judge(blank).found
    for index, page in enumerate(PAGES):
        waiting = [name for name, said in found.items() if said != "right"]
        folder, known = tmp_path / str(index), PAGES[: index + 1]
        tangle.blank(ROOT, folder, page[len("book/") : -len(".md")])
        verdict = judge(folder, *waiting)
        found, of = verdict.found, verdict.page
        assert "wrong" not in found.values(), verdict.printed
        green = [name for name, said in found.items() if said == "right"]
        assert page in {of[name] for name in green}
        early = [name for name in green if of[name] not in known]
        assert not early, f"before their turn at {page}: {early}"
        for said in found.values():
            waits = re.search(r"(book/\S+\.md)\.$", said)
            assert not waits or waits[1] not in known, f"{page} needs a later"
    whole = judge(folder)
    assert set(whole.found.values()) == {"right"}
    assert "All is right. Train it: python " in whole.printed


@pytest.mark.slow
def test_the_reward_trains_with_the_readers_package(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    tangle.blank(ROOT, folder, "training/training")
    script = [sys.executable, str(folder / tangle.TRAIN)]
    done = subprocess.run(
        script,
        cwd=ROOT,
        env=os.environ | {"CNN_DATASET": "digits"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{folder / 'cnn' / '__init__.py'} wrote" in done.stdout
    accuracy = re.search(r"reads (\d+\.\d+)% of the test", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 90
