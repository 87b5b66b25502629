"""Show what a cell printed as it was printed, however often it was flushed.

A kernel on a busy machine sends a print in pieces, at any character.
MyST-NB, when it merges streams, ends each piece with a new line; joined
plainly first, there is only one piece.
"""

from __future__ import annotations

from typing import Any

from myst_nb.core import render
from nbformat import NotebookNode
from sphinx.application import Sphinx


merge = render.coalesce_streams


def join_pieces(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join the pieces of each stream, then merge as MyST-NB does."""
    streams: dict[str, NotebookNode] = {}
    joined = []
    for output in outputs:
        name: str = output.get("name", "")
        if output["output_type"] == "stream" and name in streams:
            streams[name]["text"] += output["text"]
            continue
        if output["output_type"] == "stream":
            streams[name] = output
        joined.append(output)
    merged: list[NotebookNode] = merge(joined)
    return merged


def setup(app: Sphinx) -> dict[str, Any]:
    """Take the place of MyST-NB's own merging."""
    render.coalesce_streams = join_pieces
    return {"parallel_read_safe": True, "parallel_write_safe": True}
