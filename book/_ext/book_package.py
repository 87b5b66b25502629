"""Build the book on the package of this checkout, and only if they agree."""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import tangle
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError


BOOK = tangle.ROOT / "book"


def use_checkout(app: Sphinx, config: Config) -> None:
    """Let cells and autodoc import ``cnn`` from here, wherever else it is."""
    root = str(tangle.ROOT)
    sys.path.insert(0, root)
    paths = [root, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def find_assets(app: Sphinx, config: Config) -> None:
    """Let a page that is built alone, for a look at it, find what it shares.

    Its own folder is then the source of the book, not ``book/``.
    """
    shared = config["html_theme_options"]["logo"]
    places = [
        *((config, name) for name in ("html_logo", "html_favicon")),
        *((shared, name) for name in ("image_light", "image_dark")),
    ]
    for where, name in places:
        where[name] = str(BOOK / where[name])
    for name in ("html_static_path", "bibtex_bibfiles"):
        config[name] = [str(BOOK / path) for path in config[name]]


def keep_freed_memory(app: Sphinx, config: Config) -> None:
    """Let the kernels of the cells keep memory that they have freed.

    glibc gives it back after each training step, and the system then clears
    every page anew: that doubles the time of a step. Elsewhere than on glibc
    these variables mean nothing.
    """
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        os.environ.setdefault(name, str(2**30))


def show_progress(app: Sphinx, config: Config) -> None:
    """Let the experiments of the cells show their bars in this terminal.

    Where it has no name, or the system has none to give, there is no bar:
    whatever fails here, the build goes on.
    """
    with suppress(Exception):
        if sys.stderr.isatty():
            ttyname: Any = getattr(os, "ttyname", None)  # none on Windows
            name = ttyname(sys.stderr.fileno())
            os.environ.setdefault("CNN_TERMINAL", name)


def refuse_differences(app: Sphinx, config: Config) -> None:
    """Stop the build, with the diff, if package and chapters differ."""
    try:
        report = tangle.check(tangle.ROOT)
    except tangle.TangleError as error:
        raise ExtensionError(
            f"The book cannot be tangled.\n{error}"
        ) from error
    if report:
        raise ExtensionError(f"{tangle.DIFFER}\n{report}")


def extensions_state() -> str:
    """Hash the book's own extensions, which shape what is kept of a page."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, before all that imports the package."""
    # A value that changed makes Sphinx read all pages again.
    app.add_config_value("book_extensions", extensions_state(), "env")
    app.connect("config-inited", use_checkout, priority=100)
    if Path(app.srcdir) != BOOK:
        app.connect("config-inited", find_assets, priority=120)
    app.connect("config-inited", keep_freed_memory)
    app.connect("config-inited", show_progress)
    app.connect("config-inited", refuse_differences, priority=110)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
