"""Sphinx extension: ``.. solver-table::``, the registered solvers with their claims, as the library records them."""

from docutils.parsers.rst import Directive
from docutils.statemachine import StringList


class SolverTable(Directive):
    """One row per solver of ``diffnum.solvers.registry``."""

    def run(self):
        """Build the table through a ``list-table``."""
        from docutils import nodes

        from diffnum.cli.solvers import cost
        from diffnum.solvers import registry

        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 16 9 9 9 12 18 27", ""]
        header = [
            "solver",
            "order on log_snr",
            "order on uniform",
            "order on sigma",
            "evaluations",
            "exact for",
            "source",
        ]
        rows = [
            [
                f"``{name}``",
                f"{'weak ' if solver.kind == 'sde' else ''}{solver.order(grid='log_snr')}",
                str(solver.order(grid="uniform")),
                str(solver.order(grid="sigma")),
                cost(solver),
                solver.exact_for or "—",
                solver.paper,
            ]
            for name, solver in registry.items()
        ]
        for row in [header, *rows]:
            lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, "solver-table"), self.content_offset, node)
        return node.children


def setup(app):
    """Register with Sphinx."""
    app.add_directive("solver-table", SolverTable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
