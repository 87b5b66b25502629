"""Mend in each page what the theme and the extensions leave to be mended.

The frame of a page is mended in ``templates``, its looks in ``book.css``, and
here its body: what keeps a screen reader from reading it, and what would be
loaded without being seen.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


TEMPLATES = Path(__file__).with_name("templates")

# What the extensions write, and what should stand there.
MENDS = {
    # The name of a fold is the text on it.
    r'<summary aria-label="Toggle hidden content">': "<summary>",
    # An entry of the bibliography is an item of a list: the role that said so
    # is one no more.
    r'role="doc-biblioentry"': 'role="listitem"',
    # In viewcode's index a list stands in the item above it.
    r"</li>\s*<ul>": "<ul>",
    r"</ul>(?=<li>|</ul>)": "</ul></li>",
    # What heads nothing is no header.
    r'<th class="head[^"]*"><p></p></th>': "<td></td>",
    # The copy for dark pages is loaded where it is seen.
    r'<img (?=[^>]*class="[^"]*only-dark)': '<img loading="lazy" ',
}


def use_templates(app: Sphinx, config: Config) -> None:
    """Let the book's templates come before the theme's."""
    config.templates_path.insert(0, str(TEMPLATES))


def mend(
    app: Sphinx, page: str, _: str, context: dict[str, Any], tree: object
) -> None:
    """Mend the body of one page."""
    for old, new in MENDS.items():
        context["body"] = re.sub(old, new, context.get("body", ""))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.add_js_file("scroll.js", loading_method="defer")
    app.connect("config-inited", use_templates)
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
