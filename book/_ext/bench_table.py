"""Sphinx extension: ``.. bench-table::`` and ``.. bench-machine::``, what `make bench` measured, from its one file."""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench.json"


class Measured(Directive):
    """A directive that turns the results into lines of reStructuredText."""

    def run(self):
        """Parse the lines where the directive stands; rebuild when the file changes."""
        self.state.document.settings.env.note_dependency(str(RESULTS))
        result = json.loads(RESULTS.read_text(encoding="utf-8"))
        node = nodes.container()
        self.state.nested_parse(StringList(self.text(result), "bench"), self.content_offset, node)
        return node.children


class Table(Measured):
    """One row per solver, or several by process and order: time, passes of `torch.lerp`, ratio by hand, memory."""

    def text(self, result):
        """A ``list-table``."""
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 30 9 10 10 10 16 15", ""]
        header = ["solver", "µs", "lerps", "by hand", "ratio", "memory (limit)", "first grid, µs"]
        extra = result["limits"]["extra_states"]
        rows = [
            [
                labelled(name),
                f"{row['us']:.0f}",
                f"{row['lerps']:.1f}",
                f"{row['hand_lerps']:.1f}",
                f"{row['ratio']:.2f}",
                f"{row['states']:.0f} ({row['history']} + {extra})",
                f"{row['first_grid_us']:.0f}",
            ]
            for name, row in result["overhead"]["solvers"].items()
        ]
        for row in [header, *rows]:
            lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
        return lines


class Machine(Measured):
    """What the numbers were measured on: machine, floor, throughput, limits that do not hold, phase space, a note."""

    def text(self, result):
        """A few paragraphs."""
        about, bench, run = result["machine"], result["overhead"], result["throughput"]
        low, high = bench["lerp_quartiles_us"]
        worst = max(bench["solvers"].values(), key=lambda row: row["ratio"])["ratio"]
        broken = "; ".join(result["broken"]) or "none"
        pairs = ", ".join(f"{ratio:.2f}" for ratio in bench["phase_space"].values())
        return [
            f"Machine: {about['cpu']}, {about['cores']} cores, {about['threads']} thread used, torch {about['torch']}, "
            f"Python {about['python']}, {about['system']}, {about['date']}. One pass of ``torch.lerp`` over the state "
            f"takes {bench['lerp_us']:.1f} µs there (quartiles {low:.1f} and {high:.1f}).",
            "",
            f"The largest ratio is {worst:.2f}; {result['limits']['ratio']} is allowed. A run of ``{run['solver']}`` "
            f"with the shipped network, batch {run['batch']}, has {percent(run['fraction'])} of the network's own "
            f"throughput; neighbouring calls of the network differ by {percent(run['network_jitter'])} on that shared "
            f"machine. Limits broken: {broken}.",
            "",
            f"A number of the state costs ``gddim`` on CLD {pairs} times what it costs on VP, for orders "
            f"{', '.join(bench['phase_space'])}; {result['limits']['phase_space']} is allowed.",
            "",
            result.get("note", ""),
        ]


def labelled(name):
    """The solver in code type, its process and order behind it as text."""
    solver, _, rest = name.partition(" ")
    return f"``{solver}`` {rest}".strip()


def percent(fraction):
    """A fraction as whole percents that stay on one line."""
    return f"{100 * fraction:.0f}\u00a0%"


def setup(app):
    """Register with Sphinx."""
    app.add_directive("bench-table", Table)
    app.add_directive("bench-machine", Machine)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
