"""Set mathematics well: with a MathJax that the site itself serves."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform
from sphinx.util.fileutil import copy_asset


PACKAGE = "sphinx-mathjax-offline"
SCRIPT = "tex-chtml.js"
FONTS = "output/chtml/fonts/woff-v2"
# The parts of MathJax that the pages use, 0.8 MB. What it offers as one file
# has 1.2 or 1.3 MB: it brings a menu, which the pages do not have.
PARTS = (
    "startup",
    "core",
    "input/tex",
    "output/chtml",
    "output/chtml/fonts/tex",
    "a11y/assistive-mml",
)


def use_own_copy(app: Sphinx, config: Config) -> None:
    """Point the pages to the copy below ``_static``."""
    config["mathjax_path"] = f"mathjax/{SCRIPT}"
    # When a first build fails, the theme copies its logo to "_static", as a
    # file of that name, and no later build succeeds; unless it is a folder.
    (Path(app.outdir) / "_static").mkdir(parents=True, exist_ok=True)


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Write the script, and copy its fonts: 1.1 MB of the package's 24."""
    if error or app.builder.format != "html":
        return
    source = mathjax_folder()
    target = Path(app.outdir) / "_static" / "mathjax"
    copy_asset(source / FONTS, target / FONTS)
    (target / SCRIPT).write_text(script(source), encoding="utf-8")


def script(source: Path) -> str:
    """Join the parts; the first one starts when the last one is there."""
    return "\n".join(
        (source / f"{part}.js").read_text(encoding="utf-8") for part in PARTS
    )


def mathjax_folder() -> Path:
    """Return the folder in which the installed package keeps MathJax."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ExtensionError(
            f"{PACKAGE} is not installed: pip install {PACKAGE}."
        )
    return Path(spec.origin).parent / "static" / "mathjax"


class KeepPunctuation(SphinxTransform):
    """Keep a line from breaking between a formula and the comma after it.

    To a browser the formula is a box, and lines may break on both its sides.
    """

    default_priority = 800

    def apply(self, **kwargs: Any) -> None:
        """Hold each formula and the punctuation after it together."""
        for formula in list(self.document.findall(nodes.math)):
            parent = formula.parent
            index = parent.index(formula)
            after = parent[index + 1] if index + 1 < len(parent) else ""
            mark = re.match(r"[-.,;:!?)\]\u2019\u201d]*", str(after))
            if isinstance(after, nodes.Text) and mark and mark[0]:
                held = nodes.inline("", "", classes=["unbroken"])
                parent[index : index + 2] = [
                    held,
                    nodes.Text(after[mark.end() :]),
                ]
                held += [formula, nodes.Text(mark[0])]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.add_transform(KeepPunctuation)
    app.connect("config-inited", use_own_copy)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
