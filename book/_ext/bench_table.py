"""Sphinx extension: ``bench-table``, ``bench-machine``, ``bench-part``, what `make bench` measured, from its file."""

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
        return table([header, *rows], "30 9 10 10 10 16 15")


class Machine(Measured):
    """What the numbers were measured on: machine, floor, throughput, limits that do not hold, phase space, a note."""

    def text(self, result):
        """A few paragraphs."""
        about, bench, run = result["machine"], result["overhead"], result["throughput"]
        low, high = bench["lerp_quartiles_us"]
        worst = max(bench["solvers"].values(), key=lambda row: row["ratio"])["ratio"]
        broken = f"{len(result['broken'])}, listed on the page :ref:`slower`" if result["broken"] else "none"
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


class Part(Measured):
    """One part of the page on what is slower; a part that was not measured says so."""

    required_arguments = 1

    def text(self, result):
        """Lines of reStructuredText."""
        return PARTS[self.arguments[0]](result) or ["Not measured in the last run."]


def peers(result):
    """Cost of an evaluation in other libraries over ours, dearest place of ours first; then their start and memory."""
    found = result.get("peers") or {}
    rows = {name: {lib: r["cost"][name]["ratio"] for lib, r in found.items() if name in r["cost"]}
            for name in dict.fromkeys(name for r in found.values() for name in r["cost"])}  # fmt: skip
    if not rows:
        return []
    cells = [[labelled(name), *(f"{row[lib]:.2f}" if lib in row else "" for lib in found)]
             for name, row in sorted(rows.items(), key=lambda entry: min(entry[1].values()))]  # fmt: skip
    slower = [labelled(name) for name, row in rows.items() if min(row.values()) < 1]
    memory = [row["ours"] / row["theirs"] for r in found.values() for row in r["memory_states"].values()]
    starts = ", ".join(f"{r['import_ratio']:.2f} ({lib})" for lib, r in found.items())
    return [
        *table([["method", *(f"{lib} {r['version']}" for lib, r in found.items())], *cells]), "",
        f"Slower than a peer: {', '.join(slower) or 'none'}. Our largest memory in a run is {min(memory):.2f} to "
        f"{max(memory):.2f} times theirs; importing takes them these times as long as us: {starts}.",
        "", "The same quotient by size of the batch, side of the images and number of steps:", "",
        *(line for lib, r in found.items() for line in by_size(r["scaling"], f"{lib}, ")),
    ]  # fmt: skip


def by_size(rows, of=""):
    """Numbers that change with a size, an item for each kind of size."""
    return [f"- {of}{labelled(name)}, {kind}: " + ", ".join(f"{number:.2f} at {n}" for n, number in sizes.items()) + "."
            for name, kinds in rows.items() for kind, sizes in kinds.items()]  # fmt: skip


def setup_cost(result):
    """The first run on a grid of 20 steps and a tiny state, and the next, in other libraries and here."""
    rows = [[labelled(name), lib, *(f"{row[kind]:.2f}" for kind in ("theirs", "ours", "ours_known"))]
            for lib, r in (result.get("peers") or {}).items() for name, row in r["setup_ms"].items()]  # fmt: skip
    return rows and table([["method", "library", "there, ms", "here, new grid, ms", "here, known grid, ms"], *rows])


def by_hand(result, most=10):
    """The rows with the largest quotients."""
    worst = sorted(result["overhead"]["solvers"].items(), key=lambda entry: -entry[1]["ratio"])[:most]
    return table([["solver", "over the program by hand"], *([labelled(n), f"{r['ratio']:.2f}"] for n, r in worst)])


def grown(result):
    """Passes of `torch.lerp` per evaluation, by sizes."""
    return by_size((result.get("scaling") or {}).get("lerps", {}))


def rest(result):
    """Noise, guidance, new grids and the start of the program, with their limits."""
    limits, lines = result["limits"], []
    if draws := result.get("noise"):
        told = ", ".join(f"{ratio:.2f} for {shape}" for shape, ratio in draws.items())
        lines += [
            f"- A draw of default noise costs {told}, in calls of ``torch.randn_like``, {limits['noise']} allowed."
        ]
    if cost := result.get("guidance"):
        told = f"{cost['ratio']:.2f} unguided ones with a label, {cost['ratio_realism']:.2f} without"
        lines += [f"- A guided evaluation costs {told}."]
    if scaling := result.get("scaling"):
        for name, times in scaling["new_grid_ms"].items():
            told = ", ".join(f"{ms:.2f} ms for {n} steps" for n, ms in times.items())
            lines += [f"- A grid that ``{name}`` has not seen costs {told}."]
        begin = scaling["import"]
        lines += [
            f"- ``import diffnum`` takes {begin['diffnum_over_torch']:.2f} times as long as ``import torch``, with all "
            f"that a run needs {begin['all_over_torch']:.2f}; ``diffnum --help`` {begin['help_s']:.2f} s."
        ]
    pairs = ", ".join(f"{ratio:.2f}" for ratio in result["overhead"]["phase_space"].values())
    lines += [f"- A number of the state costs ``gddim`` on CLD {pairs} times what it costs on VP, for orders 1 to 4."]
    broken = result["broken"]
    held = [f"- Limits that did not hold in the last run: {len(broken) or 'none'}{':' if broken else '.'}", ""]
    return [*lines, *held, *(f"  - {limit}" for limit in broken)]


def missing(result):
    """Solvers without a program by hand, and the date of the run."""
    names = ", ".join(f"``{name}``" for name in result["not_measured"])
    return [f"In the run of {result['machine']['date']} these had no program by hand beside them: {names or 'none'}."]


PARTS = {"peers": peers, "setup": setup_cost, "hand": by_hand, "scaling": grown, "rest": rest, "missing": missing}


def table(rows, widths=None):
    """A ``list-table`` whose first row is the header."""
    lines = [".. list-table::", "   :header-rows: 1", *([f"   :widths: {widths}"] if widths else []), ""]
    for row in rows:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    return lines


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
    app.add_directive("bench-part", Part)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
