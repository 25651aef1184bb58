"""Sphinx extension: ``.. claims::`` and ``.. claim-index::``, verdict tables, and the role ``claim``, a number of one.

All are read from ``book/results/claims.json``, which `make claims` writes.

- ``{claims} pndm`` is the table of a paper; with names in the body, those claims only, in that order.
- ``{claim-index}`` is the theorem index: all claims with links to proof, derivation and measurement.
- ``{claim}`pndm-order-two:f_pndm``` is the number ``f_pndm`` of that claim with three digits; a format may follow a
  second colon (``:.1e``).
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives
from docutils.statemachine import StringList

RESULTS = Path(__file__).resolve().parents[1] / "results" / "claims.json"


def rows():
    """Every stored claim by its name."""
    return {row["name"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["claims"]}


def verdict(row):
    """The verdict with its condition."""
    return f"{row['verdict']} {row['condition']}".strip()


def table(header, widths, lines, name=None):
    """A ``list-table`` of MyST text."""
    out = ["```{list-table}", *([f":name: {name}"] if name else []), ":header-rows: 1", f":widths: {widths}", ""]
    for row in [header, *lines]:
        out += [f"{'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
    return [*out, "```"]


class Rendered(Directive):
    """Lines of MyST, parsed where the directive stands; rebuilt when the results change."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = {"name": directives.unchanged}  # noqa: RUF012 - docutils reads it from the class

    def run(self):
        """Parse the lines."""
        self.state.document.settings.env.note_dependency(str(RESULTS))
        node = nodes.container()
        self.state.nested_parse(StringList(self.text(rows()), "claims"), self.content_offset, node)
        return node.children


class Claims(Rendered):
    """Claim, verdict, and what was seen."""

    def text(self, stored):
        """The table of a paper, or of the claims named in the body."""
        wanted = [name for line in self.content for name in line.split()]
        paper = self.arguments[0] if self.arguments else None
        wanted = wanted or [name for name, row in stored.items() if row["paper"] == paper]
        if missing := [name for name in wanted if name not in stored]:
            raise self.error(f"no stored claim is called {', '.join(missing)}; run make claims")
        if not wanted:
            raise self.error(f"no stored claim is of the paper {paper!r}")
        lines = [(stored[n]["claim"], verdict(stored[n]), measured(stored[n])) for n in wanted]
        return table(("claim", "verdict", "what we saw"), "30 16 54", lines, self.options.get("name"))


class Index(Rendered):
    """Every claim: where it is said, proved, derived and measured, and the verdict."""

    def text(self, stored):
        """A table per paper."""
        out = []
        for paper in dict.fromkeys(row["paper"] for row in stored.values()):
            lines = [
                (
                    f"{row['claim']} ({row['kind']})",
                    row["where"],
                    f"{{{'prf:ref' if row['page'].startswith(('thm-', 'prop-')) else 'ref'}}}`{row['page']}`",
                    f"{{py:func}}`~{row['derived']}`" if row["derived"] else "—",
                    f"{{py:func}}`~{row['measured']}`",
                    verdict(row),
                )
                for row in stored.values()
                if row["paper"] == paper
            ]
            header = ("claim", "said in", "in the book", "derived by", "measured by", "verdict")
            out += [f"**{TITLES[paper]}**", "", *table(header, "30 14 16 14 14 12", lines), ""]
        return out


TITLES = {
    "foundations": "Foundations: textbooks, other papers and everyday practice",
    "pndm": "PNDM (arXiv:2202.09778)",
    "gddim": "gDDIM (arXiv:2206.05564)",
    "er_sde": "ER-SDE-Solvers (arXiv:2309.06169)",
    "integrators": "Efficient integrators (arXiv:2310.07894)",
    "folklore": "What libraries and codes imply",
}


def measured(row):
    """What was seen, with the name of the claim to run it by."""
    return f"{row['saw']} (`{row['name']}`)"


def number(name, rawtext, text, lineno, inliner, options=None, content=()):
    """``{claim}`name:key``` or ``{claim}`name:key:.1e```."""
    claim, _, rest = text.partition(":")
    key, _, form = rest.partition(":")
    inliner.document.settings.env.note_dependency(str(RESULTS))
    stored = rows().get(claim)
    if stored is None or key not in stored["numbers"]:
        there = ", ".join(stored["numbers"]) if stored else "no such claim"
        message = inliner.reporter.error(f"{text!r}: no such number ({there}); run make claims", line=lineno)
        return [inliner.problematic(rawtext, rawtext, message)], [message]
    return [nodes.Text(format(stored["numbers"][key], form or ".3g"))], []


def setup(app):
    """Register with Sphinx."""
    app.add_directive("claims", Claims)
    app.add_directive("claim-index", Index)
    app.add_role("claim", number)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
