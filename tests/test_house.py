"""The plan of the house: whose room is where, how large, and what it lacks.

Each test that fails says what to do. CONTRIBUTING.md gives the whole list.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import tangle
from conftest import CONTRACT_LAYERS
from test_book import PAGES, chapters, source

import cnn
from cnn import Layer


ROOT = Path(__file__).resolve().parents[1]
GROUND_PARTS = ("foundations", "layers", "training")
WORDS_A_MINUTE = 220


def waiting(items: Collection[str], still: set[str]) -> list[Any]:
    """Mark those that are known to fail, until they do not."""
    mark = pytest.mark.xfail(strict=True, reason="not yet")
    return [pytest.param(x, marks=mark if x in still else ()) for x in items]


def module_name(path: str) -> str:
    """cnn/beyond/fast.py -> cnn.beyond.fast; cnn/__init__.py -> cnn."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# Module -> text, of all that is in cnn/; and the ground floor of it.
TEXTS = {
    module_name(path): text for path, text in tangle.read_package(ROOT).items()
}
MODULES = [name for name in TEXTS if name != "cnn"]
GROUND = [name for name in MODULES if name.count(".") == 1]


# --- a module's path names its chapter --------------------------------------


def own_module(page: str) -> str:
    """The one module that a page may write."""
    part, _, name = page.rpartition("/")
    if page == "back/api":
        return "cnn"
    return f"cnn.{name}" if part in GROUND_PARTS else f"cnn.{part}.{name}"


@cache
def written() -> dict[str, list[str]]:
    """The modules that each page writes, in the book's order."""
    found: dict[str, list[str]] = {}
    for cell in tangle.read_cells(ROOT, tangle.read_chapters(ROOT)):
        page = cell.chapter.removeprefix("book/").removesuffix(".md")
        modules = found.setdefault(page, [])
        if module_name(cell.module) not in modules:
            modules.append(module_name(cell.module))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_page_writes_at_most_one_module_which_bears_its_name(
    page: str,
) -> None:
    own = own_module(page)
    assert set(written().get(page, ())) <= {own}, (
        f"book/{page}.md writes {written()[page]}. It may write {own} alone: "
        "give the other cells to the chapter that has their module's name."
    )


def test_there_are_no_packages_within_the_package() -> None:
    inits = list((ROOT / "cnn").glob("*/**/__init__.py"))
    assert inits == [], "No chapter writes these: delete them."


# --- who imports whom -------------------------------------------------------


def all_imports(module: str, lazy: bool = True) -> set[str]:
    """What a module imports; not lazy: only what it does when it is loaded."""
    tree = ast.parse(TEXTS[module])
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write 'from cnn...'"
            assert node.module is not None
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & TEXTS.keys()) or {node.module}
    return found


def imports(module: str, lazy: bool = True) -> set[str]:
    """What a module imports of cnn."""
    return {
        name
        for name in all_imports(module, lazy)
        if name.partition(".")[0] == "cnn"
    }


@pytest.mark.parametrize("module", [*GROUND, "cnn"])
def test_no_arrow_points_upstairs(module: str) -> None:
    """What ``cnn`` itself offers from upstairs, it fetches when asked."""
    upstairs = imports(module, lazy=module != "cnn") - {*GROUND, "cnn"}
    assert upstairs == set(), (
        f"{module} is the network's; it may not import from upstairs. Move "
        "what it needs down, or what needs it up."
    )


def test_the_ground_floor_imports_what_the_reader_has_met() -> None:
    order = [
        module
        for page in chapters()
        for module in written().get(page, ())
        if module in GROUND
    ]
    assert sorted(order) == sorted(GROUND), "a module of no numbered chapter"
    for index, module in enumerate(order):
        early = imports(module) - set(order[:index])
        assert early == set(), (
            f"{module} imports {early}, which the book writes after it, or "
            "never: change the order in _toc.yml, or move the function."
        )


def test_the_imports_have_no_circle() -> None:
    graph = {module: imports(module) for module in MODULES}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


# Each brought by another, of which it is a part for whoever uses it.
BROUGHT = {"cycler": "matplotlib", "dask": "distributed"}


def test_what_the_package_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]
    declared = {
        re.split(r"[<>=\[]", name)[0]
        for name in [*project["dependencies"], *extra["book"]]
    }
    providers = packages_distributions()
    for module in TEXTS:
        for name in all_imports(module):
            top = name.partition(".")[0]
            if top == "cnn" or top in sys.stdlib_module_names:
                continue
            provider = BROUGHT.get(top) or providers[top][0]
            assert provider in declared, (
                f"{module} imports {top}: declare {provider} in pyproject.toml"
            )


# --- how large it is --------------------------------------------------------


def lines(module: str) -> int:
    return TEXTS[module].count("\n")


def test_the_ground_floor_is_small() -> None:
    assert len(GROUND) <= 14, "A layer more is a chapter of Beyond."


def test_the_ground_floor_has_few_lines() -> None:
    total = sum(map(lines, GROUND))
    assert total <= 1900, f"{total} lines; what is for speed goes upstairs."


@pytest.mark.parametrize(
    "module",
    MODULES,
)
def test_a_module_is_read_in_one_sitting(module: str) -> None:
    layers = ("adam", "batch_norm", "dropout", "residual")
    most = 150 if module.removeprefix("cnn.beyond.") in layers else 260
    most = 200 if module == "cnn.convolution" else most
    assert lines(module) <= most, (
        f"{module} has {lines(module)} lines; expected at most {most}. "
        "Split it, and its chapter."
    )


def told(text: str) -> str:
    """What of a page is not code.

    Its words, headings, captions, equations, exercises and solutions; not its
    front matter, comments, and lines of directives and their options.
    """
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    kept: list[str] = []
    open_fences: list[str] = []
    code = ""
    for line in text.splitlines():
        fence = re.match(r"\s*(`{3,}|~{3,}|:{3,})(.*)", line)
        if code:
            code = "" if line.strip() == code else code
        elif fence and fence[2].startswith("{"):
            if re.match(r"\{(code-cell|math|eval-rst)\}", fence[2]):
                code = fence[1]
            else:
                open_fences.append(fence[1])
        elif fence and fence[1] in open_fences and not fence[2].strip():
            open_fences.remove(fence[1])
        elif fence:
            code = fence[1]
        elif not re.match(r"\s*(:[\w-]+:|%)", line):
            kept.append(line)
    return "\n".join(kept)


def prose(text: str) -> str:
    """What of a page is read as prose: an inline formula counts as one word,

    and a displayed one not at all.
    """
    text = re.sub(r"\$\$.*?\$\$( *\([\w-]+\))?", "", told(text), flags=re.S)
    return re.sub(r"\$[^$]+\$", "x", text)


def minutes(text: str) -> float:
    """How long a page takes to read."""
    return len(re.findall(r"\w[\w'’-]*", prose(text))) / WORDS_A_MINUTE


def test_prose_is_what_one_reads() -> None:
    text = (
        "---\nfile_format: mystnb\n---\n# Two words\n\n% a comment\n"
        "```{code-cell} python\n:tags: [x]\nfor i in range(3):\n```\n"
        "Three more $a + b$:\n\n$$\nx = y\n$$ (eq-x)\n\n"
        "````{exercise-start} A title\n:label: ex\n````\n\nDon't\n"
        "````{exercise-end}\n````\n"
        "```sh\npip install\n```\n```\nplain text\n```\n:::{note}\nlast\n:::\n"
    )
    words = re.findall(r"\w[\w'’-]*", prose(text))
    assert " ".join(words) == "Two words Three more x Don't last"


@pytest.mark.parametrize("page", PAGES)
def test_a_chapter_is_read_within_20_minutes(page: str) -> None:
    took = minutes(source(page))
    assert took <= 20, (
        f"book/{page}.md takes {took:.1f} minutes at {WORDS_A_MINUTE} words a "
        "minute. Cut it, or make two chapters of it."
    )


# --- what is promised -------------------------------------------------------

EQUATION = re.compile(r"Equations?: (eq-[\w-]+(?:, eq-[\w-]+)*)\.")


def public(module: str) -> Iterator[tuple[str, Any]]:
    """The public functions and classes of a module, and their methods."""
    for name, item in vars(importlib.import_module(module)).items():
        if name.startswith("_") or getattr(item, "__module__", "") != module:
            continue
        if inspect.isfunction(item) or inspect.isclass(item):
            yield name, item
        if inspect.isclass(item):
            for method, function in vars(item).items():
                if inspect.isfunction(function) and method[0] != "_":
                    yield f"{name}.{method}", getattr(item, method)


def unnamed(item: Any) -> Iterator[str]:
    """The arguments that a docstring does not name, or not with a shape."""
    text = inspect.getdoc(item) or ""
    if inspect.isclass(item):
        maker = next(base for base in item.mro() if "__init__" in vars(base))
        if not maker.__module__.startswith("cnn"):
            return  # who made that constructor, documents it
    for parameter in inspect.signature(item).parameters.values():
        name, kind = parameter.name, str(parameter.annotation)
        if name in ("self", "cls"):
            continue
        if not re.search(rf"\b{name}\b", text):
            yield name
        elif "ndarray" in kind and "Callable" not in kind:
            # In the same sentence: "x: (N, D)", "like y", "of any shape".
            shape = r"(\([^)]*,[^)]*\)|\(\)|shape|scalar|like )"
            if not re.search(rf"\b{name}\b[^.]*?{shape}", text):
                yield f"the shape of {name}"


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_name_each_argument(module: str) -> None:
    lacking = {
        name: ", ".join(missing)
        for name, item in public(module)
        if (missing := list(unnamed(item)))
    }
    assert lacking == {}, (
        f"{module}: give these docstrings a line 'name: shape, meaning' for "
        "each argument that is named here."
    )


def equations(module: str) -> list[str]:
    """The labels of the equations that a module's docstrings name."""
    found: list[str] = []
    for name, item in public(module):
        text = (item.__doc__ or "").strip()
        if "Equation" in text:
            last = EQUATION.fullmatch(text.splitlines()[-1].strip())
            assert last, f"{name}: expected a last line 'Equation: eq-label.'"
            found += last[1].split(", ")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_equations_that_docstrings_name_are_in_the_chapter(
    module: str,
) -> None:
    pages = [page for page in written() if module in written()[page]]
    text = "".join(map(source, pages))
    lost = [label for label in equations(module) if f"({label})" not in text]
    assert lost == [], f"no equation of {pages} has this label: mend one"


def test_docstrings_name_the_equations_that_they_implement() -> None:
    assert len({label for name in MODULES for label in equations(name)}) >= 15


# --- nothing is forgotten ---------------------------------------------------

# Made by a function of their module, not by a reader.
MADE = {"ConvReLUPool"}
LAYERS = {
    name: module
    for module in MODULES
    for name, item in public(module)
    if inspect.isclass(item) and issubclass(item, Layer) and item is not Layer
}


@pytest.mark.parametrize("layer", sorted(LAYERS.keys() - MADE))
def test_a_layer_is_exported_and_under_contract(layer: str) -> None:
    assert layer in cnn.__all__, (
        f"{layer} is not to be had from cnn: import it in book/back/api.md "
        "(or list it in UPSTAIRS there), and put it in __all__."
    )
    assert layer in CONTRACT_LAYERS, (
        f"Nobody tests that {layer} keeps a layer's promises: put it into "
        "CONTRACT_LAYERS in tests/conftest.py."
    )


def test_what_upstairs_offers_is_listed_alike() -> None:
    """In UPSTAIRS, for those who type check, and in ``__all__``."""
    (block,) = (
        node
        for node in ast.parse(TEXTS["cnn"]).body
        if isinstance(node, ast.If)
    )
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == cnn.UPSTAIRS, "make UPSTAIRS and TYPE_CHECKING agree"
    assert cnn.UPSTAIRS.keys() <= set(cnn.__all__), "put it in __all__"
    for name in cnn.__all__:
        getattr(cnn, name)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_in_the_reference(module: str) -> None:
    pages = [page for page in written() if module in written()[page]]
    entry = (
        f"### `{module}`\n\nWritten by {{doc}}`/{'`, `'.join(pages)}`.\n\n"
        f"```{{eval-rst}}\n.. automodule:: {module}\n```\n"
    )
    assert entry in source("back/api"), f"book/back/api.md lacks:\n\n{entry}"


def test_the_reference_is_in_the_order_of_imports() -> None:
    order = re.findall(r"automodule:: (\S+)", source("back/api"))
    for index, module in enumerate(order):
        below = imports(module) - set(order[:index])
        assert below == set(), (
            f"{module} imports {below}: put that above it in book/back/api.md."
        )


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_its_test_file(module: str) -> None:
    name = f"test_{module.rpartition('.')[2]}.py"
    assert (ROOT / "tests" / name).is_file(), (
        f"{module} has no tests: write tests/{name}."
    )


def test_contributing_says_what_each_verb_is_for() -> None:
    verbs = re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(), re.M)
    told = re.findall(
        r"^\| `make (\w+)", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    assert sorted(told) == sorted({*verbs} - {"help"}), (
        "make the table in CONTRIBUTING.md and the Makefile agree"
    )
