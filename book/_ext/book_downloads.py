"""What a reader can take home: each page as a notebook, the package, all.

Beside the theme's own downloads the menu of a page offers its notebook, with
outputs, a wheel of ``cnn``, and the source of the whole. They are files of
the site, so whoever has the site has everything.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import tangle
from book_notebooks import notebook
from sphinx.application import Sphinx


PROJECT = "cnn-from-scratch"
VERSION = distribution(PROJECT).version
NAME = f"{PROJECT.replace('-', '_')}-{VERSION}"
WHEEL, SOURCE = f"{NAME}-py3-none-any.whl", f"{PROJECT}-{VERSION}.zip"
FOLDER = "_sources"  # where the theme looks for the sources of a page
FIRST = f"""\
# This is a page of the book CNN from Scratch. It needs the package that the
# book writes: {WHEEL}, which is to be had
# in the same menu as this notebook, or in the folder {FOLDER} of the site. In
# a terminal: pip install and the path of that file.
import importlib.util
import sys
import types

if importlib.util.find_spec("cnn") is None:
    raise ImportError("cnn is not installed: pip install {WHEEL}")
# On the page, glue puts numbers into sentences. Here it has nothing to do.
sys.modules["myst_nb"] = page = types.ModuleType("myst_nb")
page.glue = lambda *arguments, **options: None
# The page's figures have no ground of their own. In a dark notebook they need
# one.
from matplotlib_inline.config import InlineBackend

InlineBackend.instance().print_figure_kwargs["facecolor"] = 'white'"""


def offer_notebook(
    app: Sphinx, page: str, _: str, context: dict[str, Any], tree: object
) -> None:
    """Write the executed notebook of a page, and tell the theme of it."""
    executed = Path(app.outdir).parent / "jupyter_execute" / f"{page}.ipynb"
    if context.get("page_source_suffix") == ".md" and executed.exists():
        text = notebook(
            executed.read_text(encoding="utf-8"), context["body"], FIRST
        )
        path = Path(app.outdir) / FOLDER / f"{page}.ipynb"
        tangle.write_file(path, text.encode())
        context["ipynb_source"] = f"{page}.ipynb"


def offer_package(
    app: Sphinx, page: str, _: str, context: dict[str, Any], tree: object
) -> None:
    """Add the wheel and the source to the menu of downloads."""
    for group in context.get("header_buttons", ()):
        if group.get("label") == "download-buttons":
            for file, text in ((WHEEL, "cnn, .whl"), (SOURCE, "source, .zip")):
                button = {
                    "type": "link",
                    "url": context["pathto"](f"{FOLDER}/{file}", 1),
                    "text": text,
                    "icon": "fas fa-box-archive",
                    "tooltip": f"Download {file}",
                    "label": f"download-{file.rpartition('.')[2]}-button",
                }
                group["buttons"].append(button)


def write_package(app: Sphinx, error: Exception | None) -> None:
    """Put the wheel and the source into the site."""
    folder = Path(app.outdir) / FOLDER
    if error is None and app.builder.format == "html":
        folder.mkdir(exist_ok=True)
        write_zip(folder / WHEEL, wheel(tangle.ROOT))
        write_zip(folder / SOURCE, source(tangle.ROOT))


def wheel(root: Path) -> dict[str, bytes]:
    """Return the files of a wheel: the package, and what pip must know."""
    about = f"{NAME}.dist-info"
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted((root / "cnn").rglob("*.py"))
    }
    files[f"{about}/METADATA"] = (
        distribution(PROJECT).read_text("METADATA") or ""
    ).encode()
    files[f"{about}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: book_downloads\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = f"{about}/RECORD"
    rows = [f"{n},sha256={digest(f)},{len(f)}\n" for n, f in files.items()]
    return files | {record: "".join([*rows, f"{record},,\n"]).encode()}


def digest(content: bytes) -> str:
    """Return a hash as a wheel's record has it."""
    code = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
    return code.rstrip(b"=").decode()


def source(root: Path) -> dict[str, bytes]:
    """Return all that git would keep of a checkout, in one folder.

    But for virtual environments: a reader's own may lie in the checkout.
    """
    git = ["git", "-C", str(root), "ls-files", "-coz", "--exclude-standard"]
    try:
        done = subprocess.run(git, capture_output=True, check=True)
        names = done.stdout.decode().rstrip("\0").split("\0")
    except (OSError, subprocess.CalledProcessError):  # a copy without git
        names = [p.relative_to(root).as_posix() for p in root.rglob("*")]
    skip = {"_build", "__pycache__", "mine"}
    paths = [Path(name) for name in sorted(names)]
    environments = {p.parent for p in paths if p.name == "pyvenv.cfg"}
    return {
        f"{PROJECT}/{path.as_posix()}": (root / path).read_bytes()
        for path in paths
        if (root / path).is_file()
        and not skip & set(path.parts)
        and not environments & set(path.parents)
    }


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """Write an archive whose bytes depend on its files alone."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)  # of 1980, not of today
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx, before and after the theme makes its menu."""
    app.connect("html-page-context", offer_notebook, priority=400)
    app.connect("html-page-context", offer_package, priority=600)
    app.connect("build-finished", write_package)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
