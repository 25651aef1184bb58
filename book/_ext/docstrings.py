"""Sphinx extension: read two plain habits of our docstrings, Markdown tables and shapes like (B, *) or (K, *event)."""

import re

RULE = re.compile(r"^\|[ :|-]*-[ :|-]*\|$")
STAR = re.compile(r"(?<=[\s(,])\*(?=[,)]|event\b)")


def table(rows):
    """The lines of a ``list-table`` for the rows of a Markdown table."""
    rows = [row.strip() for row in rows]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if not RULE.match(row)]
    yield from ("", ".. list-table::", "   :header-rows: 1", "")
    for row in cells:
        for i, cell in enumerate(row):
            yield f"   {'* -' if i == 0 else '  -'} {cell}"
    yield ""


def outside_literals(line):
    """Escape the star of a shape, except inside literals, roles and code."""
    return "".join(part if part.startswith("`") else STAR.sub(r"\\*", part) for part in re.split(r"(`+[^`]*`+)", line))


def process(app, what, name, obj, options, lines):
    """Rewrite the docstring in place (``autodoc-process-docstring``)."""
    result, rows = [], []
    for line in [*lines, ""]:
        if line.startswith("|"):
            rows.append(line)
            continue
        if rows:
            result.extend(table(rows) if len(rows) > 1 and RULE.match(rows[1].strip()) else rows)
            rows = []
        result.append(line if line.startswith("    ") else outside_literals(line))
    lines[:] = result


def setup(app):
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", process)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
