"""A Chromium for the tests that need one; they skip, and say why, without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip, or fail where the site and a browser are required."""
    if os.environ.get("CNN_REQUIRE_SITE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser that prints the book."""
    pdf = pytest.importorskip("pdf")
    if pdf.program() is None:
        missing(f"no browser: looked for {', '.join(pdf.BROWSERS)}")
    with pdf.chromium() as browser:
        yield browser
