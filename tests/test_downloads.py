"""What a reader takes home: notebooks, the wheel, the source."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import book_downloads
import book_notebooks
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


PAGE = r"""
<section id="relu"><h1><span class="section-number">4. </span>ReLU
<a class="headerlink" href="#relu">#</a></h1>
<p>See <a class="reference internal" href="#f"><span>Figure 4.1</span></a> and
<a href="https://numpy.org">NumPy</a>: <span class="unbroken"><span
class="math notranslate">\(a_1 * b\)</span>,</span> a <em>bend</em> of
<code><span class="pre">x_1</span></code>, 2 * 3 * 4.</p>
<div class="math" id="eq"><span class="eqno">(4.2)<a class="headerlink"
href="#eq">#</a></span>\[\begin{split}a &= b \\ c &= d\end{split}\]</div>
<div class="cell"><div class="cell_input"><pre>hidden</pre></div>
<div class="cell_output"><figure><img src="a.svg"><figcaption><p><span
class="caption-number">Figure 4.1 </span>What to see.</p></figcaption>
</figure></div></div>
<div class="note admonition"><p class="admonition-title">Note</p>
<p>A box.</p><ul><li><p>one</p></li><li><p>two</p></li></ul></div>
<table><thead><tr><th>n</th><th>what</th></tr></thead>
<tbody><tr><td>1</td><td>a | b</td></tr></tbody></table>
</section>"""
PROSE = [
    r"""# 4. ReLU

See Figure 4.1 and [NumPy](https://numpy.org): $a_1 * b$, a *bend* of `x_1`, 2 \* 3 \* 4.

$$
a &= b \\ c &= d
\tag{4.2}
$$""",  # noqa: E501
    r"""**Figure 4.1** What to see.

> **Note**
>
> A box.
>
> - one
> - two

| n | what |
| --- | --- |
| 1 | a \vert  b |""",
]


def test_the_prose_of_a_notebook_is_plain_markdown() -> None:
    svg = {"image/svg+xml": ["<?xml?>\n", '<svg width="1">', "</svg>"]}
    code = [
        {"cell_type": "code", "source": name, "outputs": [], "metadata": tags}
        for name, tags in (
            ("unseen", {"tags": ["remove-cell"]}),
            ("seen", {}),
            ("last", {"tags": ["remove-cell"]}),
        )
    ]
    code[1]["outputs"] = [{"output_type": "display_data", "data": svg}]
    raw = {"cell_type": "markdown", "source": "{eq}`a`", "metadata": {}}
    executed = json.dumps({"nbformat": 4, "cells": [raw, *code]})
    made = json.loads(book_notebooks.notebook(executed, PAGE, "first"))
    assert [cell["source"] for cell in made["cells"]] == [
        *("first", PROSE[0], "unseen", "seen", PROSE[1], "last")
    ]
    drawn = made["cells"][3]["outputs"][0]["data"]["image/svg+xml"]
    assert drawn == '<?xml?>\n<svg style="background: white" width="1"></svg>'


def test_a_figure_that_is_drawn_in_a_notebook_has_a_ground() -> None:
    code = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
{book_downloads.FIRST}
from cnn.back.plots import use_book_style
use_book_style()
import matplotlib.pyplot as plt
drawn, _ = shell.display_formatter.format(plt.subplots()[0])
print(drawn["image/svg+xml"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    ground = re.search(r'"patch_1">\s*<path [^>]*fill: (\S+)"', done.stdout)
    assert ground
    assert ground[1] == "#ffffff"


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


@pytest.mark.parametrize("has_git", [True, False])
def test_the_source_is_without_an_environment_in_it(
    tmp_path: Path, has_git: bool
) -> None:
    """Whatever its name: it may be larger than the site, by thousands."""
    if has_git:
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in ("README.md", "cnn/relu.py", "my env/lib/torch.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    kept = {"cnn-from-scratch/README.md", "cnn-from-scratch/cnn/relu.py"}
    assert kept < book_downloads.source(tmp_path).keys()
    (tmp_path / "my env" / "pyvenv.cfg").write_text("home = elsewhere")
    assert book_downloads.source(tmp_path).keys() == kept


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
