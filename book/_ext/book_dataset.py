"""Settle, once per build, which data set the book is built on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging


logger = logging.getLogger(__name__)


def settle_dataset(app: Sphinx, config: Config) -> None:
    """Tell all cells, through the environment, which data they work on."""
    for name in ("CNN_DATA", "CNN_RESULTS"):
        if os.environ.get(name):
            # Cells run in their page's folder; the path was given from here.
            path = Path(os.environ[name]).expanduser().absolute()
            os.environ[name] = str(path)
    from cnn.back import files  # of this checkout: see book_package

    name = files.resolve_dataset()
    files.download(name)  # now, so that the cache's key can tell what it is
    os.environ["CNN_DATASET"] = name
    logger.info("The book is built on the data set %r.", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, after the package and before the cache's key."""
    app.connect("config-inited", settle_dataset, priority=200)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
