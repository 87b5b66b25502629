"""Set the package's docstrings, which are plain text, as the reference's."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from numpy.typing import DTypeLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation


# What a line says of arguments or attributes: "weight, bias: (F, C, k, k)".
ITEM = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*): (.+)")
LITERAL = re.compile(r"(``.+?``)")
# What a docstring ends with: "Equation: eq-relu." or "Equations: eq-a, eq-b."
EQUATION = re.compile(r"Equations?: (eq-[\w-]+(?:, eq-[\w-]+)*)\.")


def to_list(
    app: Sphinx, what: str, name: str, obj: object, options: Any, text: Any
) -> None:
    """Make a list of successive lines "name: what it is"."""
    text[:] = rewrite(text)


def rewrite(text: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText.

    A sentence that begins a line ends a list, and so does a blank line. The
    line that names equations becomes links to them.
    """
    new: list[str] = []
    in_list = ended = False
    for line in map(plain, text):
        if equations := EQUATION.fullmatch(line):
            links = (f":eq:`{name}`" for name in equations[1].split(", "))
            new += ["", f"Implements {', '.join(links)}."]
            in_list = ended = False
            continue
        item = ITEM.fullmatch(line) if ended else None
        if item:
            names = ", ".join(f"``{name}``" for name in item[1].split(", "))
            new += [""] * (not in_list) + [f"- {names}: {item[2]}"]
            in_list = True
        elif in_list and line and not (ended and line[0].isupper()):
            new.append(f"  {line.strip()}")
        else:
            new += [""] * in_list + [line]
            in_list = False
        ended = not line or line.endswith((".", ":"))
    return new


def plain(line: str) -> str:
    """Escape all that would be markup, but for ``literals``."""
    parts = LITERAL.split(line)
    parts[::2] = [re.sub(r"[|*`]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def leave_out_object(
    app: Sphinx, domain: str, objtype: str, content: nodes.Element
) -> None:
    """Remove the line that says a class has no base of its own."""
    if content.children and content[0].astext() == "Bases: object":
        del content[0]


def name_dtypes(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write NumPy's DTypeLike by its name, not as the union that it is."""
    union = stringify_annotation(DTypeLike, "smart")
    return signature and signature.replace(union, "DTypeLike"), returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", to_list)
    app.connect("autodoc-process-signature", name_dtypes)
    app.connect("object-description-transform", leave_out_object)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
