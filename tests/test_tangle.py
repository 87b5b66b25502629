"""The tangler: chapters write the package, and edits go back into them."""

from __future__ import annotations

import ast
import difflib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tangle


ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "cnn").rglob("*.py")
)
FRONT = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n"
ONE = '''# One

```{code-cell} python
:tangle: cnn/one.py

"""The first module."""
```

Words.

```{code-cell} python
:tangle: cnn/one.py

import os
import sys
```

```{code-cell} python
---
tangle: cnn/one.py
tags: [hide-output]
---
# Known in advance.
SIZE = 3


def first() -> int:
    """Return the size."""
    return SIZE
```

```{code-cell} python
print("not tangled")
```

```{code-cell} python
:tangle: cnn/one.py

class Second:
    """A class."""

    def method(self) -> str:
        return os.sep + sys.platform
```

The end.
'''
TWO = '''# Two

```{code-cell} python
:tangle: cnn/two.py

"""The second module."""

from cnn.one import first
```

```{code-cell} python
:tangle: cnn/__init__.py

"""A package."""
```
'''


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of two chapters, tangled."""
    (tmp_path / "book" / "part").mkdir(parents=True)
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nparts:\n- caption: All\n"
        "  chapters:\n  - file: part/one\n    sections:\n    - file: two\n"
    )
    (tmp_path / "book" / "index.md").write_text("# Index\n")
    (tmp_path / "book" / "part" / "one.md").write_text(FRONT + ONE)
    (tmp_path / "book" / "two.md").write_text(FRONT + TWO)
    tangle.write(tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that the file has once."""
    text = path.read_bytes().decode()
    assert text.count(old) == 1
    path.write_bytes(text.replace(old, new).encode())


def test_modules_are_joined_in_order(book: Path) -> None:
    text = (book / "cnn" / "one.py").read_text()
    assert text == (
        "# Written by book/part/one.md. To keep edits: tangle.py --back.\n"
        '"""The first module."""\n\nimport os\nimport sys\n\n\n'
        "# Known in advance.\nSIZE = 3\n\n\ndef first() -> int:\n"
        '    """Return the size."""\n    return SIZE\n\n\n'
        'class Second:\n    """A class."""\n\n'
        "    def method(self) -> str:\n        return os.sep + sys.platform\n"
    )
    assert tangle.check(book) == ""


def test_order_is_that_of_the_toc(book: Path) -> None:
    cell = "\n```{code-cell} python\n:tangle: cnn/both.py\n\nX = %d\n```\n"
    for name, number in (("part/one", 1), ("two", 2)):
        path = book / "book" / f"{name}.md"
        path.write_text(path.read_text() + cell % number)
    text = tangle.tangle(book)["cnn/both.py"]
    assert text.startswith("# Written by book/part/one.md and book/two.md.")
    assert text.index("X = 1") < text.index("X = 2")


def test_unchanged_modules_are_not_touched(book: Path) -> None:
    assert tangle.write(book) == []
    edit(book / "book" / "two.md", "second", "2nd")
    before = (book / "cnn" / "one.py").stat().st_mtime_ns
    assert tangle.write(book) == ["cnn/two.py"]
    assert (book / "cnn" / "one.py").stat().st_mtime_ns == before
    assert not list(book.rglob("*.new"))


def test_check_reports_each_difference(book: Path) -> None:
    edit(book / "cnn" / "one.py", "SIZE = 3", "SIZE = 4")
    (book / "cnn" / "two.py").unlink()
    (book / "cnn" / "stray.py").write_text("")
    report = tangle.check(book)
    assert "-SIZE = 4\n+SIZE = 3\n" in report
    assert "cnn/two.py: missing" in report
    assert "cnn/stray.py: stray" in report


@pytest.mark.parametrize(
    "target",
    [
        "cnn/../x.py",
        "x.py",
        "/cnn/x.py",
        "cnn/x.txt",
        "cnn",
        "other/x.py",
        "cnn/1x.py",
    ],
)
def test_targets_outside_the_package_are_refused(
    book: Path, target: str
) -> None:
    edit(book / "book" / "two.md", "cnn/two.py", target)
    with pytest.raises(tangle.TangleError, match=r"two\.md, line 9, cell 1"):
        tangle.tangle(book)


def test_a_cell_that_does_not_parse_is_named(book: Path) -> None:
    edit(book / "book" / "part" / "one.md", "    return SIZE", "    return (")
    with pytest.raises(
        tangle.TangleError, match=r"one\.md, line 24, cell 3: .*line 7"
    ):
        tangle.tangle(book)


def test_a_cell_without_a_statement_is_named(book: Path) -> None:
    edit(book / "book" / "two.md", '"""A package."""', "# Nothing.")
    with pytest.raises(tangle.TangleError, match="no statement"):
        tangle.tangle(book)


def test_a_chapter_must_be_listed(book: Path) -> None:
    shutil.copy(book / "book" / "two.md", book / "book" / "unlisted.md")
    with pytest.raises(tangle.TangleError, match=r"unlisted\.md.*_toc\.yml"):
        tangle.tangle(book)


def test_a_chapter_must_be_a_notebook(book: Path) -> None:
    edit(book / "book" / "two.md", "file_format: mystnb\n", "")
    with pytest.raises(tangle.TangleError, match="file_format: mystnb"):
        tangle.tangle(book)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SIZE = 3", "SIZE = 4  # four"),
        ("# Known in advance.", "# Known\n# long before."),
        ("The first module", "A module"),
        ("import os\n", "import math\nimport os\n"),
        ("import sys\n", "import sys\nimport time\n"),
        ("import os\n", ""),
        ("def first() -> int", "def renamed(x: int = 1) -> int"),
        ("class Second:", "@final\nclass Second:"),
        ("return SIZE\n", "return SIZE\n\n\ndef added():\n    return 1\n"),
        ("sys.platform\n", "sys.platform\n\n\nLAST = 1\n# The end.\n"),
        ("\n\n\nclass Second", "\n    # A note below.\n\n\nclass Second"),
        ("\n\n\n# Known", "\n\n\nEARLY = 1\n\n\n# Known"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_back_carries_an_edit(
    book: Path, old: str, new: str, newline: str
) -> None:
    chapter = book / "book" / "part" / "one.md"
    before = chapter.read_text().replace("\n", newline).encode()
    chapter.write_bytes(before)
    edit(book / "cnn" / "one.py", old, new)
    module = (book / "cnn" / "one.py").read_bytes()

    assert tangle.back(book) == ["book/part/one.md"]

    assert tangle.check(book) == ""
    assert (book / "cnn" / "one.py").read_bytes() == module
    after = chapter.read_bytes()
    assert changed_lines(before, after) <= new.count("\n") + 6
    assert (b"\r\n" in after) == (newline == "\r\n")
    assert after.count(b"\n") == after.count(newline.encode())


def changed_lines(before: bytes, after: bytes) -> int:
    """Count the lines that a change took or gave."""
    old, new = before.splitlines(), after.splitlines()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return sum(
        i_end - i + j_end - j
        for tag, i, i_end, j, j_end in matcher.get_opcodes()
        if tag != "equal"
    )


def test_back_removes_a_definition_with_its_cell(book: Path) -> None:
    module = book / "cnn" / "one.py"
    text = module.read_text()
    module.write_text(text[: text.index("class Second")].rstrip() + "\n")
    tangle.back(book)
    assert tangle.check(book) == ""
    chapter = (book / "book" / "part" / "one.md").read_text()
    assert "Second" not in chapter
    assert chapter.endswith('print("not tangled")\n```\n\nThe end.\n')


def test_back_puts_a_definition_after_its_neighbour(book: Path) -> None:
    module = book / "cnn" / "one.py"
    edit(module, "\n\n\nclass S", "\n\n\ndef added():\n    pass\n\n\nclass S")
    tangle.back(book)
    chapter = (book / "book" / "part" / "one.md").read_text()
    assert "return SIZE\n\n\ndef added():\n    pass\n```\n" in chapter


def test_back_without_an_edit_writes_nothing(book: Path) -> None:
    assert tangle.back(book) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("import sys\n", "import sys\n\n\n\n\n", "cannot be carried back"),
        ("# Written by", "# By", "cannot be carried back"),
        ("return SIZE", "return (", r"cnn/one\.py: does not parse"),
    ],
)
def test_back_refuses_what_it_cannot_carry(
    book: Path, old: str, new: str, message: str
) -> None:
    edit(book / "cnn" / "one.py", old, new)
    before = (book / "book" / "part" / "one.md").read_bytes()
    with pytest.raises(tangle.TangleError, match=message):
        tangle.back(book)
    assert (book / "book" / "part" / "one.md").read_bytes() == before


def test_back_refuses_missing_and_stray_modules(book: Path) -> None:
    (book / "cnn" / "two.py").unlink()
    (book / "cnn" / "stray.py").write_text("X = 1\n")
    with pytest.raises(tangle.TangleError, match="stray") as error:
        tangle.back(book)
    assert "cnn/two.py: missing" in str(error.value)


# --- neither way drops an edit ----------------------------------------------

CELL = ("SIZE = 3\n\n\ndef first", "SIZE = 5\n\n\ndef first")
MODULE = ("class Second:", "class Third:")


def edit_both(book: Path) -> dict[Path, bytes]:
    """Edit a cell and its module; return both files, which both differ."""
    edit(book / "book" / "part" / "one.md", *CELL)
    edit(book / "cnn" / "one.py", *MODULE)
    names = ("book/part/one.md", "cnn/one.py")
    return {book / name: (book / name).read_bytes() for name in names}


@pytest.mark.parametrize("carry", [tangle.write, tangle.back])
def test_what_was_edited_on_both_sides_is_shown_and_kept(
    book: Path, carry: Callable[[Path], list[str]]
) -> None:
    before = edit_both(book)
    edit(book / "book" / "two.md", "second", "2nd")
    edit(book / "cnn" / "__init__.py", "A package", "The package")

    with pytest.raises(tangle.TangleError, match=r"cnn/one\.py") as error:
        carry(book)

    for line in ("-SIZE = 3", "+SIZE = 5", "-class Third:", "+class Second:"):
        assert f"{line}\n" in str(error.value)
    assert "two.py" not in str(error.value)
    assert all(path.read_bytes() == old for path, old in before.items())
    assert "second" in (book / "cnn" / "two.py").read_text()
    assert "A package" in (book / "book" / "two.md").read_text()


def test_the_way_out_of_an_edit_on_both_sides(book: Path) -> None:
    edit_both(book)
    edit(book / "book" / "part" / "one.md", *MODULE)
    (book / "cnn" / "one.py").unlink()
    assert tangle.write(book) == ["cnn/one.py"]
    text = (book / "cnn" / "one.py").read_text()
    assert "SIZE = 5" in text
    assert "Third" in text


def test_each_way_carries_its_own_side_and_leaves_the_other(
    book: Path,
) -> None:
    edit(book / "book" / "two.md", "second", "2nd")
    edit(book / "cnn" / "one.py", *MODULE)
    edited = (book / "cnn" / "one.py").read_bytes()
    assert tangle.write(book) == ["cnn/two.py"]
    assert (book / "cnn" / "one.py").read_bytes() == edited
    edit(book / "book" / "two.md", "2nd", "third")
    assert tangle.back(book) == ["book/part/one.md"]
    assert (book / "cnn" / "one.py").read_bytes() == edited
    assert "third" in (book / "book" / "two.md").read_text()
    assert tangle.write(book) == ["cnn/two.py"]
    assert tangle.check(book) == ""


def test_what_was_left_as_it_is_is_not_agreed_on(book: Path) -> None:
    edit(book / "book" / "two.md", "second", "2nd")
    assert tangle.back(book) == []
    edit(book / "cnn" / "two.py", "first", "one")
    with pytest.raises(tangle.TangleError, match=r"cnn/two\.py"):
        tangle.back(book)


@pytest.mark.parametrize("carry", [tangle.write, tangle.back])
def test_what_was_edited_alike_is_agreed_on(
    book: Path, carry: Callable[[Path], list[str]]
) -> None:
    edit(book / "book" / "part" / "one.md", *MODULE)
    edit(book / "cnn" / "one.py", *MODULE)
    assert carry(book) == []
    edit(book / "book" / "part" / "one.md", *CELL)
    assert tangle.write(book) == ["cnn/one.py"]


def test_a_text_agreed_on_earlier_is_no_edit(book: Path) -> None:
    """As after git stash, checkout or pull, which change both sides."""
    before = edit_both(book)
    edit(book / "cnn" / "one.py", *reversed(MODULE))
    tangle.write(book)
    for path in before:  # back to an older state, with one more edit
        edit(path, *reversed(CELL))
    edit(book / "book" / "part" / "one.md", *MODULE)
    assert tangle.write(book) == ["cnn/one.py"]


def in_git(book: Path) -> None:
    """Commit the book as it is, and forget what was agreed on."""
    (book / tangle.AGREED).unlink()
    for command in ("init", "add .", "commit -m x"):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        git = ["git", "-C", str(book), *identity, *command.split()]
        subprocess.run(git, check=True, capture_output=True)


def test_in_a_fresh_clone_the_commit_was_agreed_on(book: Path) -> None:
    in_git(book)
    edit(book / "book" / "part" / "one.md", *CELL)
    assert tangle.write(book) == ["cnn/one.py"]
    edit(book / "cnn" / "one.py", *MODULE)
    (book / tangle.AGREED).unlink()
    edit(book / "book" / "part" / "one.md", "SIZE = 5", "SIZE = 6")
    with pytest.raises(tangle.TangleError, match="since they last agreed"):
        tangle.write(book)


def test_a_conflict_of_git_is_nobodys_edit(book: Path) -> None:
    in_git(book)
    edit(book / "book" / "part" / "one.md", *CELL)
    edit(book / "cnn" / "one.py", "SIZE = 3", "<<<<<<< HEAD\nSIZE = 3")
    assert tangle.write(book) == ["cnn/one.py"]


def test_a_copy_without_git_works_as_it_is_told(book: Path) -> None:
    (book / tangle.AGREED).unlink()
    edit(book / "book" / "part" / "one.md", *CELL)
    assert tangle.write(book) == ["cnn/one.py"]
    (book / tangle.AGREED).unlink()
    edit(book / "cnn" / "one.py", *MODULE)
    assert tangle.back(book) == ["book/part/one.md"]


# --- on the whole book ------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository's chapters and package."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "_toc.yml", root)
    skip = shutil.ignore_patterns("__pycache__", "_toc.yml")
    for name in ("book", "cnn"):
        shutil.copytree(ROOT / name, root / name, ignore=skip)
    return root


@pytest.mark.parametrize("module", MODULES)
def test_back_for_each_module_of_the_package(copy: Path, module: str) -> None:
    path = copy / module
    before = {file: file.read_bytes() for file in copy.rglob("*.md")}
    before[path] = path.read_bytes()
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text), clean=False)
    assert docstring is not None
    text = text.replace(docstring, "Edited: " + docstring, 1)
    text += (
        '\n\ndef added_by_an_edit() -> int:\n    """One."""\n    return 1\n'
    )
    path.write_text(text)

    assert tangle.back(copy)

    assert tangle.check(copy) == ""
    changed = {
        file: file.read_bytes()
        for file in copy.rglob("*.md")
        if file.read_bytes() != before[file]
    }
    assert all(
        changed_lines(before[file], changed[file]) <= 8 for file in changed
    )
    book = b"".join(changed.values())
    assert b"def added_by_an_edit() -> int:" in book
    assert b'"""Edited: ' in book
    for file, content in before.items():
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "options", "status"),
    [
        ("", ["--check"], 0),
        ("X = 1\n", ["--check"], 1),
        ("X = 1\n", ["--back"], 0),
        ("X = (\n", ["--back"], 2),
    ],
)
def test_command_line(
    book: Path, damage: str, options: list[str], status: int
) -> None:
    script = book / "book" / "_ext" / "tangle.py"
    script.parent.mkdir()
    shutil.copy(tangle.__file__, script)
    module = book / "cnn" / "two.py"
    module.write_text(module.read_text() + "\n\n" * bool(damage) + damage)
    command = [sys.executable, str(script), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert ("-X = 1" in done.stdout) == (status == 1)
    assert ("two.py" in done.stderr) == (status == 2)
