"""Sphinx extension: keep of MathJax only what the pages load (3 of 24 MB; the rest is speech and other formats)."""

import shutil
from pathlib import Path

KEEP = ("tex-chtml.js", "output/chtml/fonts/", "input/tex/extensions/")


def prune(app, exception):
    """Delete the unneeded files under ``_static/mathjax`` after a successful HTML build."""
    root = Path(app.outdir) / "_static" / "mathjax"
    if exception or not root.is_dir():
        return
    for path in sorted(root.rglob("*"), reverse=True):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.startswith(KEEP):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)


def setup(app):
    """Register with Sphinx."""
    app.connect("build-finished", prune)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
