"""Write the package ``cnn`` out of the book's cells, and carry edits back.

A code cell with the option ``:tangle: cnn/convolution.py`` is a piece of that
module. The pieces are joined in the order of the table of contents.

    python book/_ext/tangle.py            write cnn/
    python book/_ext/tangle.py --check    exit 1 if cnn/ and the book differ
    python book/_ext/tangle.py --back     carry edits of cnn/ into the chapters

Neither way drops an edit: see ``edits``. For whoever writes it again:

    python book/_ext/tangle.py --blank mine               all of it
    python book/_ext/tangle.py --upto layers/loss mine    what comes after it
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from myst_nb.core.read import (
    is_myst_markdown_notebook,
    read_myst_markdown_notebook,
)
from sphinx_external_toc.parsing import parse_toc_yaml


ROOT = Path(__file__).resolve().parents[2]
TARGET = re.compile(r"cnn(/[A-Za-z_]\w*)+\.py")
AGREED = ".tangled"  # a hash of each text that book and package agreed on
DIFFER = (
    "The package cnn/ and the chapters differ. 'python book/_ext/tangle.py' "
    "carries what was edited in the chapters (lines +) into the package, with "
    "'--back' what was edited in the package (lines -) into the chapters."
)
HINT = " To keep edits: tangle.py --back."
Texts = dict[str, str]  # path from the root, with "/" -> text of the file


class TangleError(Exception):
    """The book cannot be tangled; the message says where and how to mend."""


@dataclass(frozen=True)
class Cell:
    """A code cell that is written to a module."""

    chapter: str
    number: int  # among the code cells of its chapter, from 1
    fence: int  # line of the chapter, from 0, at which the cell opens
    module: str
    source: str

    @property
    def place(self) -> str:
        """Name the cell in a message."""
        return f"{self.chapter}, line {self.fence + 1}, cell {self.number}"


# --- from the book to the package -----------------------------------------


def tangle(root: Path) -> Texts:
    """Return the text of each module that the book's chapters write."""
    return join(read_cells(root, read_chapters(root)))


def read_chapters(root: Path) -> Texts:
    """Return the chapters' texts: first those of the toc, in its order."""
    listed = [f"book/{name}.md" for name in toc_names(root / "_toc.yml")]
    found = [
        path.relative_to(root).as_posix()
        for path in sorted((root / "book").rglob("*.md"))
    ]
    order = [name for name in listed if name in found]
    order += [name for name in found if name not in listed]
    return {name: (root / name).read_bytes().decode() for name in order}


def toc_names(path: Path) -> Iterator[str]:
    """Yield the names in a table of contents, from the first to the last."""
    site = parse_toc_yaml(path)

    def walk(name: str) -> Iterator[str]:
        yield name.removesuffix(".md")
        for child in site[name].child_files():
            yield from walk(child)

    yield from walk(site.root.docname)


def read_cells(root: Path, chapters: Texts) -> list[Cell]:
    """Return the tangled cells of the chapters, each one checked."""
    listed = {f"book/{name}.md" for name in toc_names(root / "_toc.yml")}
    cells = [
        cell
        for chapter, text in chapters.items()
        if "tangle:" in text  # reading a notebook takes time
        for cell in chapter_cells(chapter, text)
    ]
    for cell in cells:
        check_cell(cell, listed)
    return cells


@cache
def chapter_cells(chapter: str, text: str) -> tuple[Cell, ...]:
    """Return the tangled cells of one chapter; reading one takes 30 ms."""
    book = read_myst_markdown_notebook(text, add_source_map=True)
    numbered = [
        (cell, line - 1)
        for cell, line in zip(
            book.cells, book.metadata["source_map"], strict=True
        )
        if cell.cell_type == "code"
    ]
    cells = tuple(
        Cell(chapter, number, fence, cell.metadata["tangle"], cell.source)
        for number, (cell, fence) in enumerate(numbered, start=1)
        if "tangle" in cell.metadata
    )
    if cells and not is_myst_markdown_notebook(text):
        raise TangleError(
            f"{chapter} has cells to tangle but is no notebook: "
            "put 'file_format: mystnb' into its front matter."
        )
    return cells


def check_cell(cell: Cell, listed: set[str]) -> None:
    """Raise an error if the cell cannot be a piece of the package."""
    if cell.chapter not in listed:
        raise TangleError(
            f"{cell.place}: writes {cell.module}, but _toc.yml does not list "
            "this chapter: list it, or take the option 'tangle' away."
        )
    if not TARGET.fullmatch(str(cell.module)):
        raise TangleError(
            f"{cell.place}: its target is {cell.module!r}; expected a module "
            "of the package, such as cnn/convolution.py."
        )
    if not parse(cell.place, cell.source).body:
        raise TangleError(
            f"{cell.place}: has no statement to tangle: give it one, or take "
            "the option 'tangle' away."
        )


def parse(where: str, source: str) -> ast.Module:
    """Parse a source, or say where it cannot be parsed."""
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise TangleError(
            f"{where}: does not parse: {error.msg}, in its line "
            f"{error.lineno}: {(error.text or '').strip()}"
        ) from error


def join(cells: list[Cell]) -> Texts:
    """Join the cells to modules, each headed by the name of its chapter."""
    pieces: dict[str, list[Cell]] = {}
    for cell in cells:
        pieces.setdefault(cell.module, []).append(cell)
    return {
        module: head(dict.fromkeys(cell.chapter for cell in parts))
        + body([cell.source.strip("\n") for cell in parts])
        for module, parts in sorted(pieces.items())
    }


def head(chapters: dict[str, None]) -> str:
    """Return the one line that says where a module comes from."""
    line = f"# Written by {' and '.join(chapters)}."
    return line + (HINT if len(line + HINT) < 80 else "") + "\n"


def body(sources: list[str]) -> str:
    """Join the sources as a formatter would: after a docstring, one line."""
    text = ""
    for before, source in pairwise(["", *sources]):
        if before:
            text += "\n\n" if is_docstring(before, source) else "\n\n\n"
        text += source
    return text + "\n"


def is_docstring(source: str, after: str) -> bool:
    """Tell if a cell is a docstring alone, and no definition follows it."""
    follows = ast.parse(after).body[:1]
    tree = ast.parse(source)
    return (
        len(tree.body) == 1
        and ast.get_docstring(tree) is not None
        and not any(isinstance(node, Definition) for node in follows)
    )


def write(root: Path) -> list[str]:
    """Write the modules whose cells changed; return their names.

    One that was edited in the package alone stays as it is.
    """
    texts = tangle(root)
    old = read_package(root)
    _, keep = edits(root, texts, old)
    changed = [
        name
        for name in texts
        if texts[name] != old.get(name) and name not in keep
    ]
    for name in changed:
        write_file(root / name, texts[name].encode())
    remember(root, texts, read_package(root))
    return changed


def write_file(path: Path, content: bytes) -> None:
    """Write a file aside and move it into its place, so none is half done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own: two builds at once may write the same module.
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        whole = Path(aside, "whole")
        whole.write_bytes(content)
        os.replace(whole, path)


def read_package(root: Path) -> Texts:
    """Return the texts of the modules as they are on disk."""
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((root / "cnn").rglob("*.py"))
    }


def check(root: Path) -> str:
    """Return how package and book differ; an empty string if they do not."""
    return compare(tangle(root), read_package(root))


def compare(book: Texts, package: Texts) -> str:
    """Return a report on the modules that differ."""
    report = []
    for name in sorted(book.keys() | package.keys()):
        if name not in package:
            report.append(f"{name}: missing; the book writes it.\n")
        elif name not in book:
            report.append(f"{name}: stray; no chapter writes it.\n")
        else:
            report += difflib.unified_diff(
                package[name].splitlines(keepends=True),
                book[name].splitlines(keepends=True),
                f"{name} (package)",
                f"{name} (book)",
            )
    return "".join(report)


# --- what both agreed on --------------------------------------------------


def edits(
    root: Path, book: Texts, package: Texts
) -> tuple[set[str], set[str]]:
    """Name the modules that were edited in the book, and in the package.

    A text is no edit if both sides once agreed on it: in this checkout, or in
    the last commit. Where neither is known, in a copy without git, nobody can
    tell. TangleError if a module was edited on both sides.
    """
    shared = book.keys() & package.keys()
    differ = sorted(name for name in shared if book[name] != package[name])
    agreed = recorded(root)
    agreed |= {digest(text) for text in committed(root, differ)}
    known = differ if agreed else []
    in_book, in_package = (
        {name for name in known if digest(side[name]) not in agreed}
        # What git left in a conflict is nobody's edit.
        - {name for name in known if "\n<<<<<<< " in side[name]}
        for side in (book, package)
    )
    both = in_book & in_package
    if both:
        raise TangleError(
            "Edited in the book and in the package since they last agreed, "
            f"so one edit would be lost: {', '.join(sorted(both))}. Nothing "
            "was written. Bring the two together in the chapter, delete the "
            "module, and tangle. Lines marked - are in the package, + in the "
            "book.\n"
            + compare(
                *({n: side[n] for n in both} for side in (book, package))
            )
        )
    return in_book, in_package


def recorded(root: Path) -> set[str]:
    """Return the hashes of the texts that were agreed on in this checkout."""
    path = root / AGREED
    return set(path.read_text("utf-8").split()) if path.exists() else set()


def remember(root: Path, book: Texts, package: Texts) -> None:
    """Record the texts on which book and package agree."""
    old = recorded(root)
    new = old | {
        digest(book[name]) for name in book if book[name] == package.get(name)
    }
    if new != old:
        write_file(root / AGREED, "\n".join(sorted(new)).encode())


def digest(text: str) -> str:
    """Return a short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def committed(root: Path, names: list[str]) -> Iterator[str]:
    """Yield the modules' texts in the last commit, where there is one."""
    for name in names:
        command = ["git", "-C", str(root), "show", f"HEAD:./{name}"]
        try:
            done = subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        yield done.stdout.decode().replace("\r\n", "\n")


# --- from the package to the book -----------------------------------------

Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Block:
    """A top-level statement of a module: its name and its lines."""

    name: str
    start: int  # first line, from 0, with the comment above it
    stop: int  # the line after its last one


def back(root: Path) -> list[str]:
    """Carry the edits of the package into the chapters; return their names.

    Cells that alone were edited, not their module, stay as they are. Nothing
    is written unless the new chapters write the package as it is.
    """
    chapters = read_chapters(root)
    cells = read_cells(root, chapters)
    book = join(cells)
    package = read_package(root)
    remain, _ = edits(root, book, package)
    package |= {name: book[name] for name in remain}
    edited = dict(chapters)
    # From the last cell to the first, so that lines above stay in place.
    for cell, source in reversed(list(new_sources(cells, package))):
        edited[cell.chapter] = replace(edited[cell.chapter], cell, source)
    report = compare(join(read_cells(root, edited)), package)
    if report:
        raise TangleError(
            "These edits cannot be carried back (the lines marked - are in "
            "the package and would be lost). Nothing was written. Edit the "
            f"chapter instead, and tangle.\n{report}"
        )
    changed = [name for name in chapters if edited[name] != chapters[name]]
    for name in changed:
        write_file(root / name, edited[name].encode())
    remember(root, package, read_package(root))
    return changed


def new_sources(
    cells: list[Cell], package: Texts
) -> Iterator[tuple[Cell, str]]:
    """Yield each cell whose source in the package is another, with that."""
    sources = {}
    for module, text in join(cells).items():
        if text != package.get(module, text):
            mine = [cell for cell in cells if cell.module == module]
            sources.update(share_out(mine, module, package[module]))
    for cell in cells:
        if cell in sources and sources[cell] != cell.source.strip("\n"):
            yield cell, sources[cell]


def share_out(cells: list[Cell], module: str, text: str) -> dict[Cell, str]:
    """Share the lines of an edited module out to the cells it came from."""
    lines = text.splitlines()
    blocks = split(module, text)
    owners = match(
        [
            (block.name, cell)
            for cell in cells
            for block in split(cell.place, cell.source)
        ],
        [block.name for block in blocks],
    )
    shares: dict[Cell, list[Block]] = {cell: [] for cell in cells}
    for block, owner in zip(blocks, owners, strict=True):
        shares[owner].append(block)
    return {
        cell: "\n".join(lines[share[0].start : share[-1].stop])
        if share
        else ""
        for cell, share in shares.items()
    }


def match(old: list[tuple[str, Cell]], new: list[str]) -> list[Cell]:
    """Find the cell of each new block by its name, or by its neighbours.

    A block that takes the place of others (a renamed function) goes to their
    cell; one that is added goes to the cell of the block before it.
    """
    owners: list[Cell] = []
    names = [name for name, _ in old]
    matcher = difflib.SequenceMatcher(None, names, new, autojunk=False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        for k in range(j_end - j):
            if tag == "insert":
                # An import is sorted in above others: it belongs to them.
                below = i < len(old) and is_import(new[j], names[i])
                above = i > 0 and is_import(new[j], names[i - 1])
                index = i if below and not above else i - 1
            else:
                index = min(i + k, i_end - 1)
            owners.append(old[max(index, 0)][1])
    return owners


def is_import(*names: str) -> bool:
    """Tell if all the blocks of these names are imports."""
    return all(name.startswith(("import ", "from ")) for name in names)


def split(where: str, text: str) -> list[Block]:
    """Split a source into its top-level statements, with their comments."""
    nodes = parse(where, text).body
    lines = text.splitlines()
    # The line that heads a module belongs to no block.
    start = 1 if text.startswith("# Written by ") else 0
    blocks = []
    for node, after in pairwise([*nodes, None]):
        assert node is not None
        stop = node.end_lineno or node.lineno
        # Comments below belong to what follows, unless two blank lines
        # part them from it.
        gap = lines[stop : first_line(after) if after else None]
        parts = [k for k, rows in enumerate(pairwise(gap)) if not any(rows)]
        if after:
            gap = gap[: parts[-1]] if parts else []
        below = "\n".join(gap).rstrip()
        stop += below.count("\n") + 1 if below else 0
        while start < first_line(node) and not lines[start].strip():
            start += 1
        blocks.append(Block(block_name(node), start, stop))
        start = stop
    return blocks


def first_line(node: ast.stmt) -> int:
    """Return the first line of a statement, from 0, with its decorators."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(item.lineno for item in decorators)]) - 1


def block_name(node: ast.stmt) -> str:
    """Name a statement by what it binds, so that an edit keeps the name."""
    if isinstance(node, Definition):
        return node.name
    if isinstance(node, ast.Assign):
        return ", ".join(ast.unparse(target) for target in node.targets)
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target)
    if isinstance(node, ast.ImportFrom):
        return f"from {'.' * node.level}{node.module or ''}"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return "docstring"
    return ast.unparse(node).splitlines()[0]


def replace(text: str, cell: Cell, source: str) -> str:
    """Put another source into a cell of a chapter; without any, drop it."""
    lines = text.splitlines(keepends=True)
    newline = "\r\n" if lines[0].endswith("\r\n") else "\n"
    plain = [line.rstrip("\r\n") for line in lines]
    old = cell.source.splitlines()
    starts = (
        start
        for start in range(cell.fence + 1, len(lines))
        if plain[start : start + len(old)] == old
    )
    start = next(starts, None)
    if start is None:
        raise TangleError(f"{cell.place}: its code was not found in the file.")
    stop = start + len(old)
    if source:
        rows = [row + newline for row in source.split("\n")]
        return "".join(lines[:start] + rows + lines[stop:])
    fence = re.match(r"\s*([`~]{3,})", plain[cell.fence])
    assert fence is not None
    while not plain[stop].strip().startswith(fence[1]):
        stop += 1
    blank = stop + 1 < len(lines) and not plain[stop + 1]
    return "".join(lines[: cell.fence] + lines[stop + 1 + blank :])


# --- the blank page -------------------------------------------------------

GROUND = re.compile(r"book/(foundations|layers|training)/.*")
EQUATION = re.compile(r"eq-[\w-]+")
WORK = {"forward", "backward", "backward_parameters", "step"}
TRAIN = "train.py"  # stands beside this file, and goes with the package


def blank(root: Path, folder: Path, upto: str = "") -> list[str]:
    """Write the package for a reader to write it again; return the files.

    folder: becomes their place of work; TangleError if something is in it.
    upto: a chapter; it and those before it are whole. Without it, none is.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TangleError(
            f"{folder} is there already, and what you wrote in it would be "
            "lost. Nothing was written. Name a new folder, or delete it."
        )
    texts = blank_texts(root, upto)
    for name, text in texts.items():
        write_file(folder / name, text.encode())
    shutil.copy(Path(__file__).with_name(TRAIN), folder)
    return [*texts, TRAIN]


def blank_texts(root: Path, upto: str = "") -> Texts:
    """Return the modules, those after a chapter without what they derive."""
    chapters = read_chapters(root)
    cells = read_cells(root, chapters)
    ground = [name for name in chapters if GROUND.match(name)]
    last = f"book/{upto}.md"
    if upto and last not in ground:
        raise TangleError(
            f"{upto!r} is no chapter of the ground floor; expected one of "
            + ", ".join(name[len("book/") : -len(".md")] for name in ground)
        )
    later = set(ground[ground.index(last) + 1 if upto else 0 :])
    texts = join(
        [
            blank_cell(cell, chapters[cell.chapter])
            if cell.chapter in later
            else cell
            for cell in cells
        ]
    )
    return {name: text.replace(HINT, "", 1) for name, text in texts.items()}


def blank_cell(cell: Cell, chapter: str) -> Cell:
    """Take the bodies of what a chapter derives out of one of its cells."""
    lines = cell.source.split("\n")
    for name, node, equations in reversed(list(derived(cell.source))):
        # Its docstring stays, and the checks with which it begins.
        told = ast.get_docstring(node) is not None
        checks = list(itertools.takewhile(is_check, node.body[told:]))
        while checks and not is_check(checks[-1], alone=True):
            checks.pop()
        first = node.body[0]
        start = first.lineno - 1
        if told or checks:
            start = node.body[told + len(checks) - 1].end_lineno or start
        lines[start : node.end_lineno] = stub(
            f"{name} is not yet there."
            + (f" Equation: {', '.join(equations)}." if equations else "")
            + f" Derived in '{section(cell, chapter, equations)}', "
            f"{cell.chapter}.",
            " " * first.col_offset,
        )
    return dataclasses.replace(cell, source="\n".join(lines))


def is_check(node: ast.stmt, alone: bool = False) -> bool:
    """Tell if a statement only looks at what a function was given.

    Unless alone, also if it gives a check a name: contract = "x (N, D)".
    """
    if isinstance(node, ast.If):
        return isinstance(node.body[0], ast.Raise)
    value = getattr(node, "value", None)
    if not isinstance(value, ast.Call):
        calls = any(isinstance(part, ast.Call) for part in ast.walk(node))
        return isinstance(node, ast.Assign) and not alone and not calls
    return ast.unparse(value.func).startswith("check_")


def stub(message: str, indent: str) -> list[str]:
    """Return the lines that raise NotImplementedError with a message."""
    width = 71 - len(indent)
    *rows, last = textwrap.wrap(message, width, break_on_hyphens=False)
    rows = [*(f"{row} " for row in rows), last]
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    return [
        f"{indent}raise NotImplementedError(",
        *(f"{indent}    {text}" for text in texts),
        f"{indent})",
    ]


def derived(source: str) -> Iterator[tuple[str, ast.FunctionDef, list[str]]]:
    """Yield what a source of the ground floor derives: name, node, equations.

    It is what has an equation in its docstring, and the methods by which a
    layer, a loss, an optimizer does its work, unless they only promise it.
    """
    for owner in ast.parse(source).body:
        within = owner.body if isinstance(owner, ast.ClassDef) else [owner]
        for node in within:
            if not isinstance(node, ast.FunctionDef):
                continue
            equations = EQUATION.findall(ast.get_docstring(node) or "")
            name = node.name
            if isinstance(owner, ast.ClassDef):
                name = f"{owner.name}.{name}"
                if node.name in WORK and not equations:
                    about = ast.get_docstring(owner) or ""
                    equations = EQUATION.findall(about)
            promise = ast.unparse(node.body[-1]) == "raise NotImplementedError"
            if (equations or node.name in WORK) and not promise:
                yield name, node, equations


def section(cell: Cell, chapter: str, equations: list[str]) -> str:
    """Return the heading under which an equation, or a cell, stands."""
    lines = chapter.splitlines()
    stop = cell.fence
    for n, line in enumerate(lines):
        if equations and line.endswith(f"({equations[0]})"):
            stop = n
    title = next(line for line in lines if line.startswith("# "))
    headings = [line for line in lines[:stop] if re.match("##+ ", line)]
    return [title, *headings][-1].lstrip("# ")


def main() -> int:
    """Run the command; 1 means a difference, 2 an error."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0]
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--check", action="store_true", help="compare, and write nothing"
    )
    mode.add_argument(
        "--back", action="store_true", help="carry edits of cnn/ to the book"
    )
    mode.add_argument(
        "--blank",
        metavar="DIR",
        type=Path,
        help="write the package into a new folder, without what is derived",
    )
    mode.add_argument(
        "--upto",
        metavar=("CHAPTER", "DIR"),
        nargs=2,
        help="the same, but this chapter and those before it are whole",
    )
    options = parser.parse_args()
    try:
        if options.blank or options.upto:
            upto, folder = options.upto or ("", options.blank)
            blank(ROOT, Path(folder), upto)
            print(f"wrote {folder}. Its judge: pytest --package {folder}")
            return 0
        if not options.check:
            for name in back(ROOT) if options.back else write(ROOT):
                print(f"wrote {name}")
        report = check(ROOT)
    except TangleError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{DIFFER}\n{report}" if report else "", end="")
    return 1 if report else 0


if __name__ == "__main__":
    sys.exit(main())
