"""What one sees of a page: prose first, and code in pieces that one can read.

Counted are printed signs, no spaces: of prose, captions and formulas on one
side, of the cells that nobody has to open on the other.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
from test_book import chapters, code_cells, source
from test_house import GROUND_PARTS, told


GROUND = [page for page in chapters() if page.split("/")[0] in GROUND_PARTS]
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
# Nothing of the package is out of sight, and a cell of it cannot be cut within
# a definition. These are longer, each of them one function or class with its
# docstring and its border checks.
WHOLE = {
    "foundations/data": ["Dataset", "check_shapes", "as_numbers"],
    "foundations/layer": ["Function", "Layer"],
    "foundations/gradient_check": ["error_beside_measured", "check_gradients"],
    "layers/linear": ["Linear"],
    "layers/windows": ["col2im"],
    "layers/convolution": ["conv2d", "Conv2d"],
    "layers/max_pooling": ["max_pool2d_backward"],
    "layers/loss": ["check_labels"],
    "layers/optimizer": ["SGD"],
    "layers/network": ["Sequential"],
    "training/training": ["Checkpoint", "train"],
    "experiments/experiment": ["run_experiment"],
    "beyond/fast": ["ConvReLUPool"],
    "beyond/parallel": ["Worker", "ParallelStep"],
    "beyond/augmentation": ["grid_sample", "distort"],
    "beyond/batch_norm": ["BatchNorm2d"],
    "beyond/workers": ["DistributedStep", "open_workers"],
}


def unfolded(text: str) -> str:
    """A page without what lies in a dropdown: above all, its solutions."""
    fence = r"^(?P<fence>`{3,}|:{3,})"
    solution = fence + r"\{solution-start\}.*?^`{3,}\{solution-end\}\n`{3,}$"
    dropdown = (
        fence + r"\{[^\n]*\n(:[^\n]*\n)*?:class: dropdown\b.*?^(?P=fence)$"
    )
    for folded in (solution, dropdown):
        text = re.sub(folded, "", text, flags=re.M | re.S)
    return text


def visible_cells(page: str) -> list[Any]:
    """The code cells whose source one sees without a click."""
    seen = unfolded(source(page))
    return [
        cell
        for cell in code_cells(page)
        if not FOLDED & set(cell.metadata.get("tags", []))
        and cell.source in seen
    ]


def signs(text: str) -> int:
    """How many signs are printed: no spaces, and a TeX command is one."""
    text = re.sub(r"\\(begin|end)\{\w+\}|\\(left|right)\b", "", text)
    text = re.sub(r"\\[a-zA-Z]+|\\.", "x", text)
    return len(re.sub(r"[\s$&^_{}`*|]", "", text))


def prose_signs(page: str) -> int:
    """How many signs one reads that are not code."""
    text = told(unfolded(source(page)))
    text = re.sub(r"^\(\S+\)=$| \(eq-\S+\)$", "", text, flags=re.M)  # labels
    text = re.sub(r"\{[\w:-]+\}`", "`", text)  # roles
    return signs(text) + sum(
        signs(
            cell.metadata.get("mystnb", {})
            .get("figure", {})
            .get("caption", "")
        )
        for cell in code_cells(page)
    )


def share(page: str) -> float:
    """How much of what one reads is not code, from 0 to 1."""
    code = sum(
        len(re.sub(r"\s", "", cell.source)) for cell in visible_cells(page)
    )
    prose = prose_signs(page)
    return prose / (prose + code)


def definition(cell: Any) -> str:
    """The name of the one function or class that a cell of cnn is, or ""."""
    body = ast.parse(cell.source).body
    one = body[0] if "tangle" in cell.metadata and len(body) == 1 else None
    return one.name if isinstance(one, ast.FunctionDef | ast.ClassDef) else ""


def too_long(page: str) -> list[Any]:
    """The visible cells that have more lines than one takes in at a look."""
    most = 25 if page in GROUND else 40
    return [
        cell
        for cell in visible_cells(page)
        if len(cell.source.strip().splitlines()) > most
    ]


@pytest.mark.parametrize("page", GROUND)
def test_prose_is_half_of_what_one_sees(page: str) -> None:
    assert share(page) >= 0.5, (
        f"book/{page}.md: {share(page):.0%} of what one sees is prose. Fold "
        "what checks or draws, or write the explanation that is missing."
    )


@pytest.mark.parametrize("page", chapters())
def test_a_visible_cell_is_an_idea(page: str) -> None:
    long = too_long(page)
    begin = [cell.source.strip()[:60] for cell in long if not definition(cell)]
    assert begin == [], (
        f"book/{page}.md: cut these cells where an idea ends, with a sentence "
        "between, or fold what carries the idea (:tags: [hide-input])."
    )
    assert [definition(cell) for cell in long] == WHOLE.get(page, []), (
        f"book/{page}.md: definitions that cannot be cut are listed in WHOLE."
    )


def test_what_is_folded_does_not_count() -> None:
    page = (
        "seen\n\n```{admonition} More\n:class: dropdown\nnot\n```\nseen\n"
        "```{solution-start} ex\n:class: dropdown\n```\nnot\n\n"
        "```{code-cell} python\nnot = 1\n```\n\n```{solution-end}\n```\nseen\n"
    )
    assert unfolded(page).split() == ["seen"] * 3
    assert signs(r"Let $\frac{\partial L}{\partial x_i}$ be *so*") == 13
