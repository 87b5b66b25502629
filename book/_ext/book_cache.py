"""Keep the cells' outputs only as long as what they came from is the same.

jupyter-cache compares the cells alone. A change in the package, in the data
set or the content of its files, in a library or the machine would leave old
outputs on the page, so each state of these has a cache of its own. Variables
of the environment do not count: the cells read only those that name the data.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tangle
from sphinx.application import Sphinx
from sphinx.config import Config


# All that cells and package import: tests/test_book.py compares.
LIBRARIES = (
    "cloudpickle",
    "distributed",
    "joblib",
    "matplotlib",
    "matplotlib-inline",
    "myst-nb",
    "numpy",
    "psutil",
    "scikit-learn",
    "scipy",
    "threadpoolctl",
    "torch",
    "torchvision",
    "tqdm",
)
KEPT = 3  # so that changing between two data sets executes nothing


def state() -> str:
    """Hash all that outputs depend on, besides the cells themselves."""
    from cnn.back.files import data_files  # of this checkout

    name = os.environ["CNN_DATASET"]
    machine = platform.system(), platform.machine(), platform.python_version()
    digest = hashlib.sha256(f"{name} {machine}".encode())
    for path in data_files(name):  # other images may have the same name
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for library in LIBRARIES:
        digest.update(f"{library} {installed(library)}".encode())
    for path in sorted((tangle.ROOT / "cnn").rglob("*.py")):
        digest.update(path.relative_to(tangle.ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def installed(library: str) -> str:
    """Return the version of a library, or none if it is not there."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def choose_cache(app: Sphinx, config: Config) -> None:
    """Use the cache of this state.

    Sphinx sees that this value changed, and reads all pages again.
    """
    cache = Path(app.outdir).parent / ".jupyter_cache" / state()
    cache.mkdir(parents=True, exist_ok=True)
    os.utime(cache)
    config["nb_execution_cache_path"] = str(cache)


def prune(app: Sphinx, error: Exception | None) -> None:
    """Remove all but the caches that were used last."""
    caches = Path(app.config["nb_execution_cache_path"]).parent.iterdir()
    by_age = sorted(caches, key=last_used)
    for cache in by_age[:-KEPT]:
        shutil.rmtree(cache, ignore_errors=True)


def last_used(cache: Path) -> float:
    """Return when, or 0 if another build has just removed it."""
    try:
        return cache.stat().st_mtime
    except OSError:
        return 0.0


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, once the data set is settled."""
    app.connect("config-inited", choose_cache, priority=300)
    app.connect("build-finished", prune)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
