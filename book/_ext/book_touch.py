"""Load, on each page, the scripts of the figures that move on it.

A cell whose last line is ``touch("name", ...)`` leaves a script of data in
the page. The page then loads ``touch.js``, ``touch/name.js`` with its parts
``touch/name_*.js`` before it and, where they compute with it, ``cnn.js``:
deferred, as classic scripts, which work from a folder too. Other pages load
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import myst_nb.sphinx_
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


ASSETS = Path(__file__).resolve().parents[1] / "assets"


def figures(doctree: nodes.document) -> list[str]:
    """Return the names of the figures that move on a page."""
    text = "".join(raw.astext() for raw in doctree.findall(nodes.raw))
    return sorted(set(re.findall(r'data-touch="([^"]*)"', text)))


def scripts(names: list[str]) -> list[str]:
    """Return the scripts of these figures, in the order to load them."""
    own = []
    for name in names:
        parts = sorted(path.name for path in ASSETS.glob(f"touch/{name}_*.js"))
        own += [f"touch/{script}" for script in (*parts, f"{name}.js")]
    for script in own:
        if not (ASSETS / script).is_file():
            raise ExtensionError(
                f"touch() was given a figure whose script is missing: "
                f"expected book/assets/{script}. Write it, or mend the name."
            )
    texts = [(ASSETS / script).read_text(encoding="utf-8") for script in own]
    engine = ["cnn.js"] if any("cnn." in text for text in texts) else []
    return [*engine, "touch.js", *own]


in_figure = myst_nb.sphinx_.create_figure_context


@contextmanager
def in_figure_once(
    self: Any, options: dict[str, Any] | None, line: int
) -> Iterator[None]:
    """Make one figure of a cell: the data beside its picture are none."""
    name = nodes.fully_normalize_name(str((options or {}).get("name")))
    with in_figure(
        self, None if name in self.document.nameids else options, line
    ):
        yield


def load(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Add the scripts to this page alone."""
    names = figures(doctree) if doctree else []
    if not names:
        return
    app.add_css_file("touch.css")
    for script in scripts(names):
        app.add_js_file(script, loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, and to what renders the outputs of cells."""
    myst_nb.sphinx_.create_figure_context = in_figure_once
    app.connect("html-page-context", load)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
