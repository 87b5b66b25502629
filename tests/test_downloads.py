"""What a reader takes home: notebooks, the wheel, the source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import book_downloads
import pytest
import tangle
from browser import missing
from test_book import Build, build, tiny  # noqa: F401
from test_site import PAGES, SITE, Visit, server, visit  # noqa: F401


RUN = """
import sys
import nbclient
import nbformat

book = nbformat.read(sys.argv[1], as_version=4)
for cell in book.cells:
    if cell.cell_type == "code":
        cell.outputs = []
nbclient.NotebookClient(book, timeout=3600).execute()
nbformat.write(book, sys.argv[1])
"""


def install(wheel: Path, folder: Path) -> None:
    """Install a wheel into a folder, without what it needs."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    command = [*pip, "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, cwd=folder.parent)


def run(notebook: Path, packages: Path) -> str:
    """Run a notebook where it lies, with what is in a folder of packages.

    What it printed, or an error.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    clean.setdefault("CNN_DATASET", "digits")
    done = subprocess.run(
        [sys.executable, "-c", RUN, notebook.name],
        cwd=notebook.parent,
        env=clean | {"PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{notebook.name}: {done.stderr[-3000:]}"
    return "".join(
        text
        for cell in json.loads(notebook.read_text())["cells"]
        for output in cell.get("outputs", ())
        for text in output.get("text", ())
    )


def add_cell(path: Path, code: str) -> None:
    """Add a cell to the end of a notebook."""
    book = json.loads(path.read_text())
    book["cells"].append(book["cells"][0] | {"id": "last", "source": code})
    path.write_text(json.dumps(book))


def test_a_notebook_of_the_site_runs_elsewhere_with_its_wheel(
    tiny: Path,  # noqa: F811
    build: Build,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    page = tiny / "book" / "index.md"
    glue = "from myst_nb import glue\nimport cnn\nglue('answer', 1)\n"
    page.write_text(page.read_text().replace("import cnn\n", glue))
    assert build().returncode == 0
    html = tiny / "_build" / "html"
    text = (html / "index.html").read_text()
    names = ("index.ipynb", book_downloads.WHEEL, book_downloads.SOURCE)
    files = [html / "_sources" / name for name in names]
    for file in files:
        assert f'href="_sources/{file.name}"' in text
    assert "answer 42 digits" in files[0].read_text()  # with its outputs

    away = tmp_path_factory.mktemp("elsewhere")
    notebook = away / "index.ipynb"
    notebook.write_bytes(files[0].read_bytes())
    install(files[1], away / "packages")
    add_cell(
        notebook,
        "import myst_nb\nprint('from', cnn.__file__)\n"
        "print('glue of', vars(myst_nb).get('__file__', 'no file'))",
    )
    printed = run(notebook, away / "packages")
    assert "answer 42" in printed
    assert f"from {away / 'packages' / 'cnn'}" in printed
    assert "glue of no file" in printed


def test_a_notebook_without_the_package_says_where_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-ISc", book_downloads.FIRST],  # no site-packages
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"pip install {book_downloads.WHEEL}" in done.stderr


def test_the_source_is_all_that_builds_the_book() -> None:
    files = book_downloads.source(tangle.ROOT)
    home = f"{book_downloads.PROJECT}/"
    for name in ("README.md", "_toc.yml", "book/_toc.yml", "pyproject.toml"):
        assert files[home + name] == (tangle.ROOT / name).read_bytes()
    for page in tangle.toc_names(tangle.ROOT / "_toc.yml"):
        assert f"{home}book/{page}.md" in files
    assert f"{home}cnn/convolution.py" in files
    assert not [name for name in files if "_build/" in name or ".pyc" in name]


def test_archives_of_one_state_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        files = book_downloads.wheel(tangle.ROOT)
        book_downloads.write_zip(tmp_path / name, files)
    one, two = (tmp_path / name for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert zipfile.ZipFile(one).testzip() is None


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the site's wheel is installed."""
    wheel = SITE / "_sources" / book_downloads.WHEEL
    if not wheel.exists():
        missing("no site: run jupyter-book build book/")
    folder = tmp_path_factory.mktemp("elsewhere") / "packages"
    install(wheel, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_each_page_gives_a_notebook_that_runs(
    visit: Visit,  # noqa: F811
    server: str,  # noqa: F811
    packages: Path,
    path: str,
) -> None:
    if not (SITE / "_sources" / path).with_suffix(".ipynb").exists():
        source = (SITE / "_sources" / path).with_suffix(".md")
        assert not source.exists() or "{code-cell}" not in source.read_text()
        return
    page = visit.page
    visit.open(server, path)
    page.locator(".dropdown-download-buttons > button").first.click()
    with page.expect_download() as download:
        page.locator(".btn-download-notebook-button").first.click()
    notebook = packages.parent / download.value.suggested_filename
    download.value.save_as(notebook)
    run(notebook, packages)
