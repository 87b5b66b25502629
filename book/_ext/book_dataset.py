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
    if os.environ.get("CNN_DATA"):
        # Cells run in the folder of their page; the path was given from here.
        root = Path(os.environ["CNN_DATA"]).expanduser().absolute()
        os.environ["CNN_DATA"] = str(root)
    from cnn.data import resolve_dataset  # of this checkout: see book_package

    name = resolve_dataset()
    os.environ["CNN_DATASET"] = name
    logger.info("The book is built on the data set %r.", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, after the package and before the cache's key."""
    app.connect("config-inited", settle_dataset, priority=200)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
