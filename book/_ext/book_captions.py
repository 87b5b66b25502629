"""Write above each tangled cell the file it goes to, linked to its source."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tangle
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform


class CaptionTangledCells(SphinxPostTransform):
    """Put ``cnn/convolution.py`` above the code that is written there."""

    default_priority = 50

    def run(self, **kwargs: Any) -> None:
        """Caption the cells of one page."""
        for cell in self.document.findall(nodes.container):
            target = cell.get("cell_metadata", {}).get("tangle")
            if not target:
                continue
            for part in cell.children:
                if "cell_input" in part["classes"]:
                    part.insert(0, self.caption(target))

    def caption(self, target: str) -> nodes.paragraph:
        """Return the caption; a link where source pages are written."""
        name = nodes.literal(target, target)
        caption = nodes.paragraph("", "", name, classes=["tangled-name"])
        if self.app.builder.format == "html":
            uri = self.app.builder.get_relative_uri(
                self.env.docname, source_page(module_name(target))
            )
            link = nodes.reference("", "", name, internal=True, refuri=uri)
            caption.children = [link]
            link.parent = caption
        return caption


def module_name(target: str) -> str:
    """Return the name to import a module by: cnn/__init__.py is ``cnn``."""
    return (
        target.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    )


def source_page(module: str) -> str:
    """Return the page that sphinx.ext.viewcode writes for a module."""
    return f"_modules/{module.replace('.', '/')}"


def add_modules(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Have viewcode write a page for each module, and each page anew.

    Left to itself it leaves out the modules whose members the reference does
    not name, and keeps pages that lack the anchors of a new reference.
    """
    shutil.rmtree(Path(app.outdir) / "_modules" / "cnn", ignore_errors=True)
    (Path(app.outdir) / "_modules" / "cnn.html").unlink(missing_ok=True)
    modules = app.env.__dict__.setdefault("_viewcode_modules", {})
    for target in tangle.read_package(tangle.ROOT):
        name = module_name(target)
        analyzer = ModuleAnalyzer.for_module(name)
        analyzer.find_tags()
        used: dict[str, str] = (modules.get(name) or (None, None, {}, name))[2]
        modules[name] = analyzer.code, analyzer.tags, used, name
    return iter(())


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, ahead of viewcode's own handler."""
    app.setup_extension("sphinx.ext.viewcode")
    app.add_post_transform(CaptionTangledCells)
    app.connect("html-collect-pages", add_modules, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
