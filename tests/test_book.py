"""The book's sources keep its promises, and its build does not let them slip.

The last tests build a tiny book with the extensions and the configuration of
this one.
"""

from __future__ import annotations

import ast
import errno
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import book_cache
import joblib
import pytest
import tangle
import yaml
from book_package import show_progress
from book_reference import rewrite
from conftest import BROKEN_STREAMS
from myst_nb.core.read import read_myst_markdown_notebook


ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(set(tangle.toc_names(ROOT / "_toc.yml")))
DRAWS = re.compile(
    r"(plt\.(figure|subplots|show)|(\w+\.)?(plot|draw|show)_\w+)$"
)


def chapters() -> list[str]:
    """Return the pages of the numbered parts."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [
        entry["file"]
        for part in toc["parts"]
        if part.get("numbered")
        for entry in part["chapters"]
    ]


def source(page: str) -> str:
    """Return the text of a page."""
    return (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")


@cache
def code_cells(page: str) -> list[Any]:
    """Return the code cells of a page, as its notebook has them."""
    cells = read_myst_markdown_notebook(source(page)).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def test_the_package_is_what_the_book_writes() -> None:
    assert tangle.check(ROOT) == ""


@pytest.mark.parametrize("page", PAGES)
def test_figures_have_alternative_text(page: str) -> None:
    for cell in code_cells(page):
        options = cell.metadata.get("mystnb", {})
        if options.keys() & {"figure", "image"} or draws(cell):
            alt = options.get("image", {}).get("alt", "")
            assert len(alt) > 20, (
                f"no alt text for the figure of:\n{cell.source}"
            )
        if "figure" in options:
            assert options["figure"].get("caption"), cell.source
            assert options["figure"].get("name"), cell.source
    assert not re.search(r"!\[\s*\]\(", source(page)), (
        "an image without alt text"
    )


def draws(cell: Any) -> bool:
    """Tell if a cell draws at once, not only in functions that it defines."""
    if "tangle" in cell.metadata or cell.source.startswith(("%", "!")):
        return False
    return any(
        isinstance(node, ast.Call) and DRAWS.match(ast.unparse(node.func))
        for statement in ast.parse(cell.source).body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
        for node in ast.walk(statement)
    )


@pytest.mark.parametrize("page", PAGES)
def test_tangled_cells_are_shown(page: str) -> None:
    hiding = {
        f"{verb}-{part}"
        for verb in ("hide", "remove")
        for part in ("input", "cell")
    }
    for cell in code_cells(page):
        if "tangle" in cell.metadata:
            assert not hiding & set(cell.metadata.get("tags", [])), cell.source


@pytest.mark.parametrize("page", PAGES)
def test_code_is_narrower_than_80_columns(page: str) -> None:
    for cell in code_cells(page):
        assert [
            line for line in cell.source.split("\n") if len(line) > 79
        ] == []


@pytest.mark.parametrize("page", chapters())
def test_chapters_end_in_short_and_with_exercises(page: str) -> None:
    text = source(page)
    assert re.search(r"^(#+|:*`*\{admonition\}) In short$", text, re.M)
    exercise = r"\{exercise(?:-start)?\}[^\n]*\n(?::[^\n]*\n)*?:label: (\S+)"
    solution = r"\{solution-start\} (\S+)\n(.*?)\{solution-end\}"
    labels = re.findall(exercise, text)
    solutions = dict(re.findall(solution, text, re.S))
    assert len(labels) >= 3
    assert sorted(solutions) == sorted(labels)
    for label, answer in solutions.items():
        assert ":class: dropdown" in answer, f"{label} gives itself away"
        assert "{code-cell}" in answer, f"nothing is executed for {label}"


def test_docstrings_are_read_as_plain_text_with_lists() -> None:
    lines = [
        "max(|a|, |b|) of a * b and ``a * b``: a `sum`.",
        "",
        "The loss is r * y.",
        "x, y: (N, C), which",
        "  goes on.",
        "rng: a generator. z: is in the",
        "middle of a line.",
        "ValueError if not.",
        "so: this begins a list again.",
        "Equations: eq-relu, eq-loss-softmax.",
    ]
    assert rewrite(lines) == [
        r"max(\|a\|, \|b\|) of a \* b and ``a * b``: a \`sum\`.",
        "",
        r"The loss is r \* y.",
        "",
        "- ``x``, ``y``: (N, C), which",
        "  goes on.",
        "- ``rng``: a generator. z: is in the",
        "  middle of a line.",
        "",
        "ValueError if not.",
        "",
        "- ``so``: this begins a list again.",
        "",
        "Implements :eq:`eq-relu`, :eq:`eq-loss-softmax`.",
    ]


class Terminal:
    """A standard error that is a terminal, whose name may be asked for."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


def no_name(number: int) -> str:
    raise OSError(errno.ENODEV, "No such device")


def no_reason(number: int) -> str:
    raise RuntimeError


@pytest.mark.parametrize(
    ("ttyname", "bars_at"),
    [
        (lambda number: f"tty{number}", "tty2"),
        (no_name, None),
        (no_reason, None),
        (None, None),
    ],
    ids=["named", "nameless", "broken", "no such function, as on Windows"],
)
def test_bars_are_shown_only_in_a_terminal_that_has_a_name(
    monkeypatch: pytest.MonkeyPatch,
    ttyname: Callable[[int], str] | None,
    bars_at: str | None,
) -> None:
    monkeypatch.setenv("CNN_TERMINAL", "")  # so that it is restored
    monkeypatch.delenv("CNN_TERMINAL")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.delattr(os, "ttyname", raising=False)
    if ttyname:
        monkeypatch.setattr(os, "ttyname", ttyname, raising=False)
    show_progress(None, None)
    assert os.environ.get("CNN_TERMINAL") == bars_at


@pytest.mark.parametrize("stream", BROKEN_STREAMS)
def test_a_build_starts_whatever_is_wrong_with_the_terminal(
    monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setenv("CNN_TERMINAL", "")  # so that it is restored
    monkeypatch.delenv("CNN_TERMINAL")
    monkeypatch.setattr(sys, "stderr", BROKEN_STREAMS[stream]())
    show_progress(None, None)


# --- a tiny book ------------------------------------------------------------

PAGE = """\
---
file_format: mystnb
kernelspec:
  name: python3
---

# A tiny book

```{code-cell} python
:tangle: cnn/__init__.py

ANSWER = 42
```

```{code-cell} python
:tangle: cnn/back/files.py

import os
from pathlib import Path


def resolve_dataset() -> str:
    return os.environ.get("CNN_DATASET", "digits")


def data_files(name: str) -> list[Path]:
    return sorted(Path(os.environ.get("CNN_DATA", "none")).glob("*"))


def download(name: str) -> None:
    if name == "mnist" and "CNN_DATA" in os.environ:
        Path(os.environ["CNN_DATA"]).mkdir(exist_ok=True)
        for file in data_files(name) or [Path(os.environ["CNN_DATA"], "it")]:
            if not file.exists():
                file.write_text("downloaded")
```

```{code-cell} python
import os
import cnn

print("answer", cnn.ANSWER, os.environ["CNN_DATASET"])
print("data at", os.environ.get("CNN_DATA"))
```
"""

Build = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A book of one page, with this book's extensions and configuration."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("_ext", "assets"):
        shutil.copytree(
            ROOT / "book" / name, tmp_path / "book" / name, ignore=skip
        )
    shutil.copy(ROOT / "_config.yml", tmp_path)
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    shutil.copy(tmp_path / "_toc.yml", tmp_path / "book")
    (tmp_path / "book" / "index.md").write_text(PAGE)
    tangle.write(tmp_path)
    return tmp_path


@pytest.fixture
def build(tiny: Path) -> Build:
    """A function that builds the tiny book."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CNN_", "PYTHONPATH"))
    }

    def run(
        what: str = "book/", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        main = "from jupyter_book.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", main, "build", what, "-W", "-n"],
            cwd=tiny,
            env=clean | variables,
            capture_output=True,
            text=True,
        )

    return run


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that the file has once."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_outputs_are_those_of_the_package_and_its_data(
    tiny: Path, build: Build
) -> None:
    page = tiny / "_build" / "html" / "index.html"
    first = build(CNN_DATA="some/where")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "answer 42 digits" in page.read_text()
    assert f"data at {tiny / 'some' / 'where'}" in page.read_text()
    assert "Executed notebook" in first.stdout

    again = build()
    assert again.returncode == 0
    assert "Executed notebook" not in again.stdout

    edit(tiny / "cnn" / "__init__.py", "ANSWER = 42", "ANSWER = 43")
    differs = build()
    assert differs.returncode != 0
    assert "-ANSWER = 43" in differs.stderr

    tangle.back(tiny)
    assert build().returncode == 0
    assert "answer 43 digits" in page.read_text()

    assert build(CNN_DATASET="mnist").returncode == 0
    assert "answer 43 mnist" in page.read_text()

    back_again = build()
    assert back_again.returncode == 0
    assert "answer 43 digits" in page.read_text()
    assert "Executed notebook" not in back_again.stdout


def test_outputs_are_those_of_the_content_of_the_data(
    tiny: Path, build: Build
) -> None:
    """Not of the names of its files, nor of their sizes and dates."""
    page = tiny / "book" / "index.md"
    edit(
        page,
        'print("data at"',
        "for path in sorted(Path(os.environ['CNN_DATA']).glob('*')):\n"
        '    print("read", path.name, path.read_text())\nprint("data at"',
    )
    edit(
        page,
        "import os\nimport cnn",
        "import os\nfrom pathlib import Path\n\nimport cnn",
    )
    html = tiny / "_build" / "html" / "index.html"
    data = tiny / "data"

    def executes() -> bool:
        done = build(CNN_DATA="data", CNN_DATASET="mnist")
        assert done.returncode == 0, done.stdout + done.stderr
        return "Executed notebook" in done.stdout

    # What is not there is downloaded before the key is made, ...
    assert executes()
    assert "read it downloaded" in html.read_text()
    # ... so that it is the same the next time.
    assert not executes()

    file = data / "it"
    known = file.stat()
    file.write_text("DOWNLOADED")  # as long, and as old
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert executes()
    assert "read it DOWNLOADED" in html.read_text()
    file.write_text("downloaded")
    assert not executes()  # it was seen before


# Each waits for the other, or finds out that something else is running.
MEETS = """
assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
for _ in range(600):
    Path("{name}").touch()
    if Path("{other}").exists():
        break
    time.sleep(0.1)
print("met" if Path("{other}").exists() else "alone")
"""
ALONE = """
from time import perf_counter
assert os.environ["OPENBLAS_NUM_THREADS"] == "2"
Path("busy").touch(exist_ok=False)
time.sleep(1)
Path("busy").unlink()
print("undisturbed")
"""


@pytest.mark.skipif(joblib.cpu_count() == 1, reason="one page at a time")
def test_two_pages_are_executed_at_a_time_but_a_stopwatch_alone(
    tiny: Path, build: Build
) -> None:
    head = PAGE.partition("```{code-cell}")[0]
    imports = "import os\nimport time\nfrom pathlib import Path\n"
    cells = {
        "one": MEETS.format(name="one", other="two"),
        "two": MEETS.format(name="two", other="one"),
        "three": ALONE,
        "four": ALONE,
    }
    for name, cell in cells.items():
        text = f"{head}```{{code-cell}} python\n{imports}{cell}```\n"
        (tiny / "book" / f"{name}.md").write_text(text)
    for toc in (tiny / "_toc.yml", tiny / "book" / "_toc.yml"):
        toc.write_text(
            "format: jb-book\nroot: index\nchapters:\n"
            + "".join(f"  - file: {name}\n" for name in cells)
        )
    done = build(OPENBLAS_NUM_THREADS="2")
    assert done.returncode == 0, done.stdout + done.stderr
    for name, said in zip(
        cells, ["met"] * 2 + ["undisturbed"] * 2, strict=True
    ):
        page = tiny / "_build" / "html" / f"{name}.html"
        assert f">{said}\n<" in page.read_text()
    assert "Executed notebook" not in build().stdout


def imported(text: str) -> set[str]:
    """The libraries that a page's cells import."""
    found = re.findall(r"^ *(?:import|from) ([a-zA-Z_]\w*)", text, re.M)
    return set(found) - sys.stdlib_module_names - {"cnn"}


def test_no_library_of_the_cells_is_left_out_of_the_key() -> None:
    providers = packages_distributions()
    names = set()
    for page in (ROOT / "book").rglob("*.md"):
        cells = re.findall(
            r"^```\{code-cell\}.*?^```", page.read_text(), re.M | re.S
        )
        names |= imported("\n".join(cells))
    for module in (ROOT / "cnn").rglob("*.py"):
        names |= imported(module.read_text())
    lacking = {name for name in names if name in providers} - {
        name
        for name in names
        for provider in providers.get(name, [])
        if provider in book_cache.LIBRARIES
    }
    lacking -= {"cycler", "dask"}  # parts of matplotlib and distributed
    assert {"numpy", "torch", "sklearn", "scipy"} <= names
    assert lacking == set()


def test_each_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNN_DATASET", "digits")
    known = book_cache.state()
    assert book_cache.state() == known
    for library in book_cache.LIBRARIES:
        version = book_cache.installed(library)
        with monkeypatch.context() as patch:
            patch.setattr(
                book_cache,
                "installed",
                lambda name, changed=library, version=version: (
                    f"{version}.1"
                    if name == changed
                    else importlib.metadata.version(name)
                ),
            )
            assert book_cache.state() != known
    for name in ("system", "machine", "python_version"):
        with monkeypatch.context() as patch:
            patch.setattr(book_cache.platform, name, lambda: "another")
            assert book_cache.state() != known


def test_a_changed_module_alone_is_executed_anew(
    tiny: Path, build: Build
) -> None:
    """The cells stay the same: jupyter-cache alone would see no change."""
    chapter = tiny / "book" / "index.md"
    edit(
        tiny / "_toc.yml", "root: index", "root: index\nchapters:\n- file: use"
    )
    shutil.copy(tiny / "_toc.yml", tiny / "book")
    use = PAGE[: PAGE.index("```")] + PAGE[PAGE.rindex("```{code-cell}") :]
    (tiny / "book" / "use.md").write_text(use)
    assert build().returncode == 0
    edit(chapter, "ANSWER = 42", "ANSWER = 44")
    tangle.write(tiny)
    assert build().returncode == 0
    text = (tiny / "_build" / "html" / "use.html").read_text()
    assert "answer 44 digits" in text


def test_a_page_built_alone_looks_as_in_the_book(
    tiny: Path, build: Build
) -> None:
    (tiny / "book" / "part").mkdir()
    (tiny / "book" / "index.md").rename(tiny / "book" / "part" / "page.md")
    (tiny / "_toc.yml").write_text("format: jb-book\nroot: part/page\n")
    tangle.write(tiny)
    done = build("book/part/page.md")
    assert done.returncode == 0, done.stdout + done.stderr
    html = tiny / "_build" / "_page" / "book-part-page" / "html"
    text = (html / "page.html").read_text()
    assert "answer 42 digits" in text
    for name in ("book.css", "favicon.svg", "logo.svg", "logo-dark.svg"):
        assert f"_static/{name}" in text
        assert (html / "_static" / name).is_file()


def test_a_failing_cell_fails_each_build(tiny: Path, build: Build) -> None:
    page = tiny / "book" / "index.md"
    edit(page, 'print("answer"', "assert cnn.ANSWER == 41\nprint(1")
    for _ in range(2):
        failed = build()
        assert failed.returncode != 0
        assert "AssertionError" in failed.stdout + failed.stderr
    edit(page, "assert cnn.ANSWER == 41\n", "")
    mended = build()
    assert mended.returncode == 0, mended.stdout + mended.stderr


def test_a_print_that_was_flushed_in_pieces_is_shown_whole() -> None:
    """A busy kernel sends pieces; nothing may come between them."""
    from book_streams import join_pieces
    from nbformat.v4 import new_output

    pieces = ("a ", "b\n", "\nc")
    outputs = [new_output("stream", name="stdout", text=t) for t in pieces]
    (joined,) = join_pieces(outputs)
    assert joined["text"] == "a b\n\nc\n"
