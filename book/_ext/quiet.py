"""Sphinx extension: pages load no code that they do not use and write nothing to the browser's console."""

import re
from pathlib import Path

#: What scripts of the theme tell the console in passing; warnings and errors stay, but for one that is neither.
CHATTER = re.compile(r"console\.(?:(?:log|info|debug)\(|error\((?=`Got invalid theme mode))")


def leave_out(app, page, template, context, doctree):
    """Thebe runs cells on a public server, which this book does not; it also declares its name twice."""
    kept = [s for s in context.get("script_files", []) if "thebe" not in str(getattr(s, "filename", s) or "").lower()]
    context["script_files"] = [s for s in kept if "THEBE" not in str(getattr(s, "attributes", {}).get("body", ""))]


def hush(app, exception):
    """Take the chatter out of the theme's scripts after a successful HTML build."""
    if exception or app.builder.name != "html":
        return
    for extra in Path(app.outdir, "_static").rglob("*.map"):  # for who debugs the theme
        extra.unlink()
    for script in [*Path(app.outdir, "_static").rglob("*.js"), Path(app.outdir, "search.html")]:
        if "mathjax" in script.parts or not script.is_file():
            continue
        text = script.read_text(encoding="utf-8")
        quiet = CHATTER.sub("void(", text)
        if quiet != text:
            script.write_text(quiet, encoding="utf-8")


def setup(app):
    """Register with Sphinx."""
    app.connect("html-page-context", leave_out, priority=900)
    app.connect("build-finished", hush)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
