"""Sphinx extension: ``.. audit-table:: LIBRARY``, rows of what `diffnum audit` measured, from its one file.

Each line of the body chooses rows: ``sampler`` or ``sampler | words of the variant``, whole names; without a body all
rows of the library. ``.. audit-versions::`` says what was measured.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

RESULTS = Path(__file__).resolve().parents[1] / "results" / "audit.json"


class Audited(Directive):
    """A directive that turns rows of the audit into lines of reStructuredText."""

    required_arguments = 0
    optional_arguments = 1
    has_content = True

    def run(self):
        """Parse the lines where the directive stands; rebuild when the file changes."""
        self.state.document.settings.env.note_dependency(str(RESULTS))
        rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
        node = nodes.container()
        self.state.nested_parse(StringList(self.text(rows), "audit"), self.content_offset, node)
        return node.children


class Table(Audited):
    """One row per sampler and variant."""

    def text(self, rows):
        """A ``list-table``."""
        from diffnum.interop.audit.report import cells

        rows = [row for row in rows if not self.arguments or row["library"] == self.arguments[0]]
        if self.content:
            rows = [row for wanted in self.content for row in chosen(rows, wanted)]
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 40 7 7 8 8 10 6 34", ""]
        header = ["sampler", "claims", "order", "last pair", "floor", "finest error", "NFE", "remarks"]
        for i, row in enumerate([header, *rows]):
            if i:
                name, variant, *numbers, _, said = cells(row)
                row = [f"``{name}`` {variant}", *numbers, said]
            lines += [f"   {'  -' if j else '* -'} {cell or '—'}" for j, cell in enumerate(row)]
        return lines


def chosen(rows, wanted):
    """The rows that a line names; a line that names none is an error of the page."""
    name, _, words = (part.strip() for part in wanted.partition("|"))
    found = [row for row in rows if row["sampler"] == name and (not words or row["variant"] == words)]
    if not found:
        raise ValueError(f"audit-table: no row {wanted!r} in {RESULTS.name}")
    return found


class Versions(Audited):
    """Which libraries, in which versions, how many samplers."""

    def text(self, rows):
        """One paragraph."""
        from diffnum.interop.audit.report import libraries

        return ["; ".join(f"{name}: {len(group)} samplers and variants" for name, group in libraries(rows)) + "."]


def setup(app):
    """Register with Sphinx."""
    app.add_directive("audit-table", Table)
    app.add_directive("audit-versions", Versions)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
