"""What a page's cells leave lying about: imports, names, long lines.

ruff reads the cells of a page as one notebook. The modules that they write
are read with the package.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_notebook
from test_book import PAGES, code_cells
from test_house import waiting


ROOT = Path(__file__).resolve().parents[1]
LINTED = [page for page in PAGES if code_cells(page)]
RULES = "E,F,I"
# A module's imports come after its docstring, in the middle of a page; and a
# chapter may well need a letter l.
IGNORED = "E402,E741"
# What a page defines a second time to show what an edit does.
EDITED = {"back/fingerprint": ["scaled"]}


# Chapters that are still to be tidied.
UNTIDY = {
    *("beyond/deeper", "beyond/augmentation", "beyond/averaging"),
    *("beyond/library", "beyond/fast", "beyond/parallel"),
}


@pytest.fixture(scope="module")
def remarks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What ruff says of each page."""
    folder = tmp_path_factory.mktemp("cells")
    files = {}
    for page in LINTED:
        notebook = new_notebook(cells=code_cells(page))
        notebook.metadata.language_info = {"name": "python"}
        file = folder / f"{page.replace('/', '.')}.ipynb"
        nbformat.write(notebook, file)
        files[file.name] = page
    found = subprocess.run(
        [
            *("ruff", "check", "--isolated", "--no-cache"),
            *("--output-format", "json", "--line-length", "79"),
            *("--select", RULES, "--ignore", IGNORED),
            *("--config", f"src=['{ROOT.as_posix()}']", str(folder)),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert found.stderr == ""
    remarks: dict[str, list[str]] = {page: [] for page in LINTED}
    for remark in json.loads(found.stdout):
        page = files[Path(remark["filename"]).name]
        cells = code_cells(page)
        if not is_meant(remark, cells, EDITED.get(page, [])):
            cell = cells[remark["cell"] - 1].source.splitlines()
            line = cell[remark["location"]["row"] - 1]
            code, message = remark["code"], remark["message"]
            remarks[page].append(f"{code} {message}: {line.strip()!r}")
    return remarks


def is_meant(
    remark: dict[str, Any], cells: list[Any], edited: list[str]
) -> bool:
    """Whether the module is looked after elsewhere, or the page means it.

    A page may import what it wrote: its own class is `__main__`'s, and no
    worker process has that one.
    """

    def written(number: int) -> bool:
        return "tangle" in cells[number - 1].metadata

    if remark["code"] != "F811":
        return written(remark["cell"])
    if any(f"unused `{name}`" in remark["message"] for name in edited):
        return True
    before = re.search(r"from cell (\d+), line \d+", remark["message"])
    return before is not None and written(int(before[1]))


@pytest.mark.parametrize("page", waiting(LINTED, UNTIDY))
def test_cells_leave_nothing_lying_about(
    page: str, remarks: dict[str, list[str]]
) -> None:
    said = "\n".join(remarks[page])
    assert not said, f"book/{page}.md:\n{said}"
