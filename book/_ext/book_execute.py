"""Execute some pages at a time; those that hold a stopwatch, one by one.

MyST-NB executes a page when Sphinx reads it, one after the other, and most
pages keep one core busy. So they are executed, into the cache from which
MyST-NB takes them, before the reading begins. A page that fails is left out:
it fails again when it is read, with a message at its place. Then the pages are
written, some at a time as well.
"""

from __future__ import annotations

import os
import re
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import joblib
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.config import NbParserConfig
from myst_nb.core.read import create_nb_reader
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.display import status_iterator


AT_ONCE = 3  # not more: each may hold all of MNIST, and train on all cores
STOPWATCH = "perf_counter"
LONG = re.compile(r"run_experiment\(|joblib\.Parallel\(")

Page = tuple[Path, NotebookNode, NbParserConfig]


def execute_pages(
    app: Sphinx, env: BuildEnvironment, names: list[str]
) -> None:
    """Execute those of these pages that are not in the cache, some at a time.

    Those that measure time are left to MyST-NB, when all is quiet.
    """
    its: Any = env  # where MyST-NB keeps what it was told
    config, markdown = its.mystnb_config, its.myst_config
    pages: list[Page] = []
    for name in names:
        path = Path(env.doc2path(name))
        text = path.read_text(encoding="utf-8")
        reader = create_nb_reader(str(path), markdown, config, text)
        if reader is not None and STOPWATCH not in text:
            place = 0 if LONG.search(text) else len(pages)  # long ones first
            pages.insert(place, (path, reader.read(text), config))
    pages = [page for page in pages if not is_cached(*page)]
    if joblib.cpu_count() == 1 or len(pages) < 2:
        return
    with Pool(AT_ONCE, take_one_thread) as pool:
        for _ in status_iterator(
            pool.imap_unordered(execute, pages),
            "executing pages, some at a time... ",
            length=len(pages),
            verbosity=app.verbosity,
        ):
            pass


def take_one_thread() -> None:
    """Let the kernels that this process starts compute on one thread.

    The threads of a product spin while they wait for each other. Where pages
    share the cores, that takes as much as the work itself.
    """
    for library in "OMP", "OPENBLAS":
        os.environ[f"{library}_NUM_THREADS"] = "1"


def is_cached(path: Path, notebook: NotebookNode, config: Any) -> bool:
    """Tell if the cache has this page's outputs."""
    try:
        get_cache(config.execution_cache_path).match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def execute(page: Page) -> str:
    """Execute a page into the cache; its name."""
    path, notebook, config = page
    result = single_nb_execution(
        notebook,
        cwd=str(path.parent),
        timeout=config.execution_timeout,
        allow_errors=config.execution_allow_errors,
    )
    if result.err is None:
        seconds = {"execution_seconds": result.time}
        get_cache(config.execution_cache_path).cache_notebook_bundle(
            CacheBundleIn(notebook, str(path), data=seconds),
            check_validity=False,
            overwrite=True,
        )
    return path.stem


def write_side_by_side(app: Sphinx, env: BuildEnvironment) -> None:
    """Let all processors write; Jupyter Book does not ask how many may.

    They read one by one: a page with a stopwatch is executed when it is read.
    """
    app.parallel = joblib.cpu_count()


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, before it reads the pages and before it writes."""
    app.connect("env-before-read-docs", execute_pages)
    app.connect("env-check-consistency", write_side_by_side)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
