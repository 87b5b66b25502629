"""Write a page's notebook: its code cells, and its prose as Markdown.

A page's source speaks MyST: roles, directives, labels. Jupyter knows none of
them, so the prose is taken from the finished page, where each number and
each reference is already in its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag


BLOCKS = (
    *("p", "div", "section", "ul", "ol", "dl", "dt", "dd", "li", "table"),
    *("figure", "figcaption", "blockquote", "pre", "details", "aside"),
    *("h1", "h2", "h3", "h4", "h5", "h6"),
)
MARKS = {"em": "*", "i": "*", "cite": "*", "strong": "**", "b": "**"}
SKIP = ".headerlink, .viewcode-link, .tangled-name, script, style"
# The colour of a word of code: most of a page's tags, and never looked at.
COLOURED = re.compile(r'<span class="\w{1,3}">([^<]*)</span>')


def notebook(executed: str, body: str, first: str) -> str:
    """Return a page's notebook as JSON.

    executed: the notebook as MyST-NB has run it, with its outputs.
    body: the page as it stands in the site.
    first: the code of a cell that goes before all others.
    """
    book = json.loads(executed)
    code = iter([c for c in book["cells"] if c["cell_type"] == "code"])
    empty: dict[str, Any] = {"outputs": [], "execution_count": None}
    made = {"cell_type": "code", "metadata": {}} | empty
    cells = [made | {"id": "cnn", "source": first}]
    for part in parts(BeautifulSoup(COLOURED.sub(r"\1", body), "html.parser")):
        if part is not None:
            made = {"cell_type": "markdown", "metadata": {}}
            cells.append(made | {"id": f"text{len(cells)}", "source": part})
            continue
        for cell in code:  # those that the page does not show come along
            cells.append(grounded(cell))
            if "remove-cell" not in cell["metadata"].get("tags", ()):
                break
    cells += map(grounded, code)
    return json.dumps(book | {"cells": cells}, ensure_ascii=False, indent=1)


def grounded(cell: dict[str, Any]) -> dict[str, Any]:
    """Give the figures of a cell a ground, for notebooks that are dark."""
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/svg+xml" in data:
            drawing = "".join(data["image/svg+xml"])
            ground = '<svg style="background: white" '
            data["image/svg+xml"] = drawing.replace("<svg ", ground, 1)
    return cell


def parts(tree: Tag) -> Iterator[str | None]:
    """Yield the prose between the cells of a page, and None for each cell."""
    for unwanted in tree.select(SKIP):
        unwanted.decompose()
    prose: list[str] = []
    for block in blocks(tree):
        if block is None:
            yield from ["\n\n".join(prose)] * bool(prose)
            prose = []
            yield None
        else:
            prose.append(block)
    yield from ["\n\n".join(prose)] * bool(prose)


def blocks(tag: Tag) -> Iterator[str | None]:
    """Yield each block of a page as Markdown, and None for each cell."""
    words: list[Any] = []  # of a paragraph that has no tag of its own
    for child in [*tag.children, None]:
        if isinstance(child, Tag) and child.name in BLOCKS:
            yield from paragraph(words)
            words = []
            yield from block(child)
        elif child is not None:
            words.append(child)
    yield from paragraph(words)


def paragraph(words: list[Any]) -> list[str]:
    """Return the block that these words make, if they make one."""
    text = "".join(map(inline, words)).strip()
    return [re.sub(r"\s+", " ", text)] if text else []


def block(tag: Tag) -> Iterator[str | None]:
    """Yield what one block is as Markdown."""
    classes = tag.get_attribute_list("class")
    if "cell" in classes:
        yield None
        for caption in tag.select("figcaption"):
            yield from blocks(caption)
    elif tag.name == "div" and "math" in classes:
        yield display(tag)
    elif tag.name == "pre":
        yield f"```\n{tag.get_text().strip()}\n```"
    elif tag.name[0] == "h" and tag.name[1:].isdigit():
        yield "#" * int(tag.name[1]) + f" {line(tag)}"
    elif tag.name in ("p", "dt") and "title" in " ".join(map(str, classes)):
        yield f"**{line(tag)}**"
    elif tag.name in ("ul", "ol"):
        yield from items(tag)
    elif tag.name == "table":
        yield table(tag)
    elif (
        tag.name in ("aside", "blockquote", "dd") or "admonition" in classes
    ) and not tag.select(".cell"):
        inside = "\n\n".join(filter(None, blocks(tag)))
        yield re.sub("^", "> ", inside, flags=re.M).replace("> \n", ">\n")
    else:
        yield from blocks(tag)


def items(tag: Tag) -> Iterator[str]:
    """Yield a list."""
    lines = []
    for number, item in enumerate(tag.find_all("li", recursive=False), 1):
        inside = "\n\n".join(filter(None, blocks(item)))
        mark = "- " if tag.name == "ul" else f"{number}. "
        indent = "\n" + " " * len(mark)
        lines.append(mark + re.sub("\n(?=.)", indent, inside))
    yield "\n".join(lines)


def table(tag: Tag) -> str:
    """Return a table."""
    rows = [
        [line(cell).replace("|", "\\vert ") for cell in row(["th", "td"])]
        for row in tag.find_all("tr")
    ]
    if not tag.find("thead"):
        rows.insert(0, [""] * len(rows[0]))
    rows.insert(1, ["---"] * len(rows[0]))
    caption = tag.find("caption")
    title = f"{line(caption)}\n\n" if isinstance(caption, Tag) else ""
    return title + "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def display(tag: Tag) -> str:
    """Return a displayed equation, with its number."""
    number = tag.select_one(".eqno")
    digits = number.extract().get_text()[1:-1] if number else ""
    tagged = f"\\tag{{{digits}}}\n" if number else ""
    maths = tag.get_text().strip().removeprefix("\\[").removesuffix("\\]")
    maths = maths.strip().removeprefix("\\begin{split}")
    maths = maths.removesuffix("\\end{split}").strip()
    return f"$$\n{maths}\n{tagged}$$"


def line(tag: Tag) -> str:
    """Return what a tag says, in one line."""
    return "".join(paragraph([tag]))


def inline(child: Any) -> str:
    """Return what stands within a line."""
    if isinstance(child, NavigableString):
        plain = type(child) is NavigableString  # and no comment
        return re.sub(r"([\\`*_\[\]<$])", r"\\\1", child) if plain else ""
    inside = "".join(map(inline, child.children))
    if "math" in child.get_attribute_list("class"):
        maths = child.get_text().strip().removeprefix("\\(")
        maths = maths.removesuffix("\\)").strip()
        return f"${maths}$"
    if child.name == "code":
        return f"`{child.get_text()}`"
    if child.name == "br":
        return "\n"
    if child.name == "a" and str(child.get("href", "")).startswith("http"):
        return f"[{inside}]({child['href']})"
    number = "caption-number" in child.get_attribute_list("class")
    mark = "**" if number else MARKS.get(child.name)
    if mark and inside.strip():
        return f"{mark}{inside.strip()}{mark}" + " " * inside.endswith(" ")
    return inside
