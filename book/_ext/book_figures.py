"""Give each figure that is drawn in ink a second copy for dark pages.

Figures are SVGs without background, whose lines and letters have one colour.
The page holds both copies; the theme hides the one that does not fit.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


INK = "#1b1f24"  # as cnn.back.plots draws it
CHALK = "#e6e8eb"


class AddDarkCopies(SphinxTransform):
    """Put a copy in light ink after each SVG image that is drawn in ink."""

    # Before images are collected, and before one of a cell's outputs is
    # chosen: both copies stand in the same place from then on.
    default_priority = 800

    def apply(self, **kwargs: Any) -> None:
        """Copy the images of one page."""
        for image in list(self.document.findall(nodes.image)):
            if "only-dark" in image["classes"]:
                continue
            path = Path(self.env.relfn2path(image["uri"])[1])
            if path.suffix == ".svg" and path.is_file():
                drawing = path.read_text(encoding="utf-8")
                if INK in drawing.lower():
                    self.add_copy(image, in_chalk(drawing))

    def add_copy(self, image: nodes.image, drawing: str) -> None:
        """Write the dark drawing, and show it beside the light one."""
        folder = Path(self.app.outdir).parent / "jupyter_execute" / "dark"
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(drawing.encode()).hexdigest()[:32] + ".svg"
        (folder / name).write_text(drawing, encoding="utf-8")
        relative = os.path.relpath(folder / name, self.app.srcdir)
        dark = image.deepcopy()
        dark["uri"] = "/" + Path(relative).as_posix()
        dark["ids"], dark["names"] = [], []
        image["classes"] += ["only-light", "dark-light"]
        dark["classes"] += ["only-dark", "dark-light"]
        image.parent.insert(image.parent.index(image) + 1, dark)


def in_chalk(drawing: str) -> str:
    """Replace the ink in a drawing."""
    return drawing.replace(INK, CHALK).replace(INK.upper(), CHALK)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.add_transform(AddDarkCopies)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
