"""The judge of the blank page: `pytest --package mine`.

The tests of the ground floor hold a package to account that a reader writes:
`python book/_ext/tangle.py --blank mine` began it, in the folder `mine`. At
the end it is said, chapter by chapter, what is right, what is wrong, what is
not yet there, and where that is derived. Without the option, nothing happens.
"""

from __future__ import annotations

import argparse
import ast
import functools
import os
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest


# Whose package it is must be settled before a test imports it, and that is
# before pytest has read its options.
parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
parser.add_argument("--package", type=Path)
FOLDER = parser.parse_known_args()[0].package
if FOLDER:
    sys.path.insert(0, str(FOLDER.resolve()))
    os.environ.setdefault("HYPOTHESIS_PROFILE", "reader")
    # For the children of the tests too, wherever they are started.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ["PYTHONSAFEPATH"] = "1"

ROOT = Path(__file__).parent
MISSING = re.compile(r"(\S+) is not yet there\.(.*?)(book/[\w/]+\.md)\.", re.S)
KINDS = ("right", "wrong", "not yet there", "for a later chapter")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--package", metavar="DIR", help="judge a reader's cnn")
    parser.addoption("--chapter", help="of it, one: layers/linear, say")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--chapter") and not config.getoption("--package"):
        raise pytest.UsageError(
            "--chapter was given without --package; expected a folder of "
            "tangle.py --blank. Add --package mine."
        )
    if config.getoption("--package"):
        if FOLDER is None or not (FOLDER / "cnn").is_dir():
            raise pytest.UsageError(
                f"there is no {FOLDER}/cnn; expected --package, on the "
                "command line, to name a folder of tangle.py --blank."
            )
        if config.getoption("numprocesses", None):
            raise pytest.UsageError(
                "--package was given with -n; expected one process, which "
                "judges in the order of the book. Leave -n out."
            )
        judge = Judge(FOLDER, config.getoption("--chapter"))
        config.pluginmanager.register(judge)


def missing(module: Path) -> list[re.Match[str]]:
    """What of a module is not yet there: name, equations, chapter."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    texts = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    found = (MISSING.match(text) for text in texts if isinstance(text, str))
    return [stub for stub in found if stub]


def at_once(test: Any) -> Any:
    """A drawn test that seeks no smallest input for what is missing."""

    @functools.wraps(test)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            test(*args, **kwargs)
        except NotImplementedError as error:
            pytest.skip(str(error))  # Hypothesis lets this through

    return wrapped


class Judge:
    """Runs the tests of the ground floor, and says what they found."""

    def __init__(self, folder: Path, chapter: str | None) -> None:
        import tangle

        self.folder = folder
        listed = [f"book/{p}.md" for p in tangle.toc_names(ROOT / "_toc.yml")]
        # Module -> its chapter, in the order of the book.
        self.pages = {
            Path(page).stem: page
            for page in listed
            if tangle.GROUND.match(page)
            and (ROOT / "cnn" / f"{Path(page).stem}.py").exists()
        }
        self.order = [None, *self.pages.values()].index
        self.found: dict[str, dict[str, list[str]]] = {
            page: {kind: [] for kind in KINDS} for page in self.pages.values()
        }
        asked = {page for page in self.found if chapter in (None, page[5:-3])}
        if not asked:
            names = ", ".join(page[5:-3] for page in self.found)
            raise pytest.UsageError(
                f"--chapter was given {chapter}; expected one of {names}."
            )
        self.asked = asked

    def page_of(self, item: Any) -> str | None:
        """The chapter that a test is of; a layer's contract is of its own.

        None for a layer of Beyond, which a reader is not asked for.
        """
        import cnn

        module = item.path.stem.removeprefix("test_")
        if "layer_and_x" in item.fixturenames:
            layer = getattr(cnn, item.callspec.params["layer_and_x"])
            module = layer.__module__.removeprefix("cnn.")
        return self.pages.get(module)

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave out the tests of anything but the ground floor."""
        start, _, module = collection_path.stem.partition("test_")
        return True if not start and module not in self.pages else None

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Put the tests in the order of the book."""
        items[:] = [item for item in items if self.page_of(item) in self.asked]
        for item in items:
            item.user_properties.append(("page", self.page_of(item)))
            drawn = getattr(item.obj, "hypothesis", None)
            if drawn and not hasattr(drawn.inner_test, "__wrapped__"):
                drawn.inner_test = at_once(drawn.inner_test)
        items.sort(key=lambda item: self.order(self.page_of(item)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: Any, call: pytest.CallInfo[None]
    ) -> Generator[None, Any, Any]:
        """Tell what is missing from what is wrong."""
        report = yield
        if report.passed and report.when != "call":
            return report
        page = str(self.page_of(item))
        kind = "right" if report.passed else "wrong"
        said, error = report.capstderr, call.excinfo and call.excinfo.value
        while error:  # also one that was on its way when another came
            said, error = f"{said}\n{error}", error.__context__
        stub = None if report.passed else MISSING.search(said)
        if stub:
            later = self.order(stub[3]) > self.order(page)
            kind = KINDS[3] if later else KINDS[2]
            report.outcome = "skipped"
            report.longrepr = (*item.location[:2], stub[0])
        elif report.skipped:
            return report
        self.found[page][kind].append(item.name)
        return report

    def pytest_report_teststatus(self, report: Any) -> Any:
        """Call a test "not yet there" where pytest would say "skipped"."""
        if report.skipped and MISSING.search(str(report.longrepr)):
            return "not yet there", "-", "NOT YET THERE"
        return None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say, chapter by chapter, what was found."""
        line = terminalreporter.write_line
        terminalreporter.section(f"the package in {self.folder}")
        done = True
        for number, (module, page) in enumerate(self.pages.items(), start=1):
            found = {k: f for k, f in self.found[page].items() if f}
            stubs = missing(self.folder / "cnn" / f"{module}.py")
            done = done and not stubs and found.keys() == {"right"}
            if not found:  # its tests were not asked for
                continue
            counts = ", ".join(f"{len(found[k])} {k}" for k in found)
            line(f"{number:2} {page:34} {counts}")
            for stub in stubs:
                line(f"     not yet there: {stub[1]}.{stub[2].rstrip(', ')}.")
            for test in found.get("wrong", ()):
                line(f"     wrong: {test}")
        if done:
            line(f"All is right. Train it: python {self.folder / 'train.py'}")
