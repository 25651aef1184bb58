"""Sphinx extension: ``.. few-table:: PROBLEM GRID``, errors at few evaluations, from ``book/results/few.json``.

``.. few-best::`` says who is best where, and ``.. few-scores::`` how far every row is from the best on average.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from diffnum.claims.foundations.network import in_libraries

RESULTS = Path(__file__).resolve().parents[1] / "results" / "few.json"


class Measured(Directive):
    """A directive that turns the results into lines of reStructuredText."""

    optional_arguments = 2

    def run(self):
        """Parse the lines where the directive stands; rebuild when the file changes."""
        self.state.document.settings.env.note_dependency(str(RESULTS))
        result = json.loads(RESULTS.read_text(encoding="utf-8"))
        node = nodes.container()
        self.state.nested_parse(StringList(self.text(result), "few"), self.content_offset, node)
        return node.children


def listed(rows, widths):
    """A ``list-table``."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in rows:
        lines += [f"   {'  -' if j else '* -'} {cell}" for j, cell in enumerate(row)]
    return lines


class Errors(Measured):
    """One row per method, one column per budget; the smallest error of a column is bold."""

    def text(self, result):
        """The table."""
        problem, grid = self.arguments
        found, budgets = result["errors"][problem][grid], result["budgets"]
        best = [min((row[i] for row in found.values() if row[i] is not None), default=0) for i in range(len(budgets))]
        rows = [["method", *map(str, budgets)]]
        for name, row in found.items():
            if name in result["same"]:
                continue
            cells = ["—" if e is None else f"{e:.1e}".replace("e-0", "e-").replace("e+0", "e+") for e in row]
            cells = [f"**{c}**" if e is not None and e == b else c for c, e, b in zip(cells, row, best, strict=True)]
            rows.append([name.replace("*", "\\*"), *cells])
        return listed(rows, "30 " + " ".join(["9"] * len(budgets)))


class Best(Measured):
    """For every problem, grid and budget: the best of ours over the best of all libraries."""

    def text(self, result):
        """The table; below 1 ours leads."""
        budgets = result["budgets"]
        rows = [["problem, grid", *map(str, budgets)]]
        for problem, grids in result["errors"].items():
            for grid, found in grids.items():
                cells = []
                for i in range(len(budgets)):
                    errors = {n: r[i] for n, r in found.items() if r[i] is not None and not n.startswith("Gaussian")}
                    if not errors:
                        cells.append("—")
                        continue
                    theirs = min(e for n, e in errors.items() if in_libraries(n))
                    ours = min(e for n, e in errors.items() if not n.startswith(("k-diffusion", "azula")))
                    cells.append(f"{ours / theirs:.2f}")
                rows.append([f"{problem}, {grid}", *cells])
        return listed(rows, "24 " + " ".join(["9"] * len(budgets)))


class Scores(Measured):
    """The geometric mean of a row's error over the best of its place."""

    def text(self, result):
        """The table, best first."""
        rows = [
            ["method", "times the best"],
            *([n.replace("*", "\\*"), f"{s:.2f}"] for n, s in result["score"].items()),
        ]
        return listed(rows, "60 40")


def setup(app):
    """Register with Sphinx."""
    app.add_directive("few-table", Errors)
    app.add_directive("few-best", Best)
    app.add_directive("few-scores", Scores)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
