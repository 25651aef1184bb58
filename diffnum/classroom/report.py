"""What was found, and for every reader: text, JSON, one self-contained HTML page, and two autograders' formats.

Torch is not imported here, so a file in which nothing can be graded is refused at once.
"""

import json
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from diffnum import __version__
from diffnum.classroom.supervise import unlimited

SCHEMA = 1
BOUNDARY = "Solvers run in a process of their own with limits. That is no security boundary."
SIGNS = {"passed": ("+", "green"), "failed": ("x", "red"), "skipped": (".", "yellow"), "unclaimed": ("-", "dim")}


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        check: its name in ``diffnum.classroom.grade.CHECKS``.
        status: ``passed``, ``failed``, ``skipped`` (an earlier check failed) or ``unclaimed`` (it does not apply).
        reason: one sentence with what was measured.
        points: earned; ``of``: possible, 0 where it does not apply.
        title: what the check asks.
        section: where the book explains it, as ``page#section``.
    """

    check: str
    status: str
    reason: str
    points: float
    of: float
    title: str
    section: str

    @property
    def see(self) -> str:
        """The address of that section, within the book."""
        page, _, section = self.section.partition("#")
        return f"book/{page}.html#{section}"


@dataclass
class Grade:
    """What was found about one solver.

    Attributes:
        solver: its name.
        verdicts: one for each check that was made.
        results: titles and :class:`~diffnum.measure.analysis.Convergence`, for plots and tables.
        seconds: that grading took.
        output: the end of what it printed.
    """

    solver: str
    verdicts: list[Verdict] = field(default_factory=list)
    results: list[tuple[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    output: str = ""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return bool(self.verdicts) and all(v.status in ("passed", "unclaimed") for v in self.verdicts)

    @property
    def points(self) -> float:
        """Points earned."""
        return sum(v.points for v in self.verdicts)

    @property
    def of(self) -> float:
        """Points possible."""
        return sum(v.of for v in self.verdicts)

    @property
    def faults(self) -> list[Verdict]:
        """The checks that failed."""
        return [v for v in self.verdicts if v.status == "failed"]

    @property
    def reason(self) -> str:
        """The first fault, or empty."""
        return self.faults[0].reason if self.faults else ""


@dataclass
class Report:
    """What was found in one file.

    Attributes:
        file: its name.
        grades: one for each solver.
        errors: what went wrong before any solver ran, in sentences; without a solver the last says why there is none.
    """

    file: str
    grades: list[Grade] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there is a solver, and every one passes."""
        return bool(self.grades) and all(grade.passed for grade in self.grades)


def number(value: float) -> str:
    """Points without needless zeros."""
    return f"{value:.4g}"


# -------------------------------------------------------------------------------------------------------------- text


def text(report: Report, console: Any) -> None:
    """Print a report on a rich console."""
    from rich.table import Table
    from rich.text import Text

    for sentence in report.errors:
        console.print(Text.assemble((f"{report.file}: ", "bold"), (sentence, "red" if not report.grades else "yellow")))
    for grade in report.grades:
        verdict = ("PASSED", "bold green") if grade.passed else ("NOT PASSED", "bold red")
        points = f"  {number(grade.points)} of {number(grade.of)} points, {grade.seconds:.0f} s"
        console.print(Text.assemble((f"{report.file}: {grade.solver}  ", "bold"), verdict, points))
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for v in grade.verdicts:
            sign, colour = SIGNS[v.status]
            reason = Text(v.reason if v.status != "failed" else f"{v.reason}\nsee {v.see}")
            worth = f"{number(v.points)}/{number(v.of)}" if v.of else ""
            table.add_row(Text(sign, style=colour), Text(v.title, style=colour), worth, reason)
        console.print(table)
        if grade.output.strip():
            console.print(Text(f"it printed: ...{grade.output.strip()[-300:]}", style="dim"))


# -------------------------------------------------------------------------------------------------------------- JSON


def as_dict(report: Report) -> dict[str, Any]:
    """The report as the JSON schema that the book's page on checking describes."""
    return {
        "schema": SCHEMA,
        "diffnum": __version__,
        "file": report.file,
        "passed": report.passed,
        "errors": report.errors,
        "unlimited": unlimited(),
        "solvers": [_grade(grade) for grade in report.grades],
    }


def _grade(grade: Grade) -> dict[str, Any]:
    return {
        "name": grade.solver,
        "passed": grade.passed,
        "points": grade.points,
        "of": grade.of,
        "reason": grade.reason,
        "seconds": round(grade.seconds, 2),
        "output": grade.output,
        "checks": [
            {
                "check": v.check, "title": v.title, "status": v.status, "reason": v.reason, "points": v.points,
                "of": v.of, "see": v.see,
            } for v in grade.verdicts
        ],
        "convergence": [
            {
                "title": title, "steps": result.steps, "evaluations": result.nfe, "errors": result.errors,
                "slopes": result.slopes, "order": result.order, "claim": result.claim,
            } for title, result in grade.results
        ],
    }  # fmt: skip


def gradescope(report: Report) -> dict[str, Any]:
    """The report as Gradescope's ``results.json``: one test for each check of each solver."""
    tests = [
        {
            "name": f"{grade.solver}: {v.title}",
            "score": v.points,
            "max_score": v.of,
            "status": "failed" if v.status in ("failed", "skipped") else "passed",
            "output": _told(v),
            "visibility": "visible",
        }
        for grade in report.grades
        for v in grade.verdicts
    ]
    return {
        "output": "\n".join([*report.errors, BOUNDARY]),
        "score": sum(grade.points for grade in report.grades),
        "execution_time": round(sum(grade.seconds for grade in report.grades)),
        "tests": tests,
    }


def prairielearn(report: Report) -> dict[str, Any]:
    """The report as PrairieLearn's ``results.json``, well under its limit of 1 MB."""
    of = sum(grade.of for grade in report.grades)
    return {
        "gradable": bool(report.grades) or not report.errors,
        "score": sum(grade.points for grade in report.grades) / of if of else 0.0,
        "message": "\n".join(report.errors),
        "output": "\n".join(grade.output[-2000:] for grade in report.grades),
        "tests": [
            {
                "name": f"{grade.solver}: {v.title}",
                "points": v.points,
                "max_points": v.of,
                "message": v.status,
                "output": _told(v),
            }
            for grade in report.grades
            for v in grade.verdicts
        ],
    }


FORMATS = {"diffnum": as_dict, "gradescope": gradescope, "prairielearn": prairielearn}


def dumps(report: Report, style: str = "diffnum") -> str:
    """A report as JSON text in one of :data:`FORMATS`; numbers that JSON lacks become null."""
    return json.dumps(_plain(FORMATS[style](report)), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _told(v: Verdict) -> str:
    return f"{v.reason}\nsee {v.see}" if v.status == "failed" else v.reason


# -------------------------------------------------------------------------------------------------------------- HTML

STYLE = """body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;text-align:left;vertical-align:top;
border-bottom:1px solid #ddd}.passed td:first-child{color:#070}.failed td:first-child{color:#a00;font-weight:bold}
.skipped td:first-child{color:#850}.unclaimed{color:#777}
td:last-child{overflow-wrap:anywhere}svg{max-width:100%;height:auto}pre{background:#f4f4f4;padding:.5rem;overflow-x:auto}
@media(max-width:40rem){th{display:none}tr{display:block;padding:.3rem 0;border-bottom:1px solid #ddd}
td{display:inline-block;border:0;padding:.1rem .6rem .1rem 0}td:last-child{display:block}}"""


def page(title: str, body: str) -> str:
    """A self-contained HTML page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}"
        f"<p>diffnum {__version__}. {BOUNDARY}</p></body></html>\n"
    )


def html(report: Report, book: str = "") -> str:
    """A report as one page with its plots; ``book`` is the address of the book, for links."""
    parts = [f"<p class='failed'>{escape(sentence)}</p>" for sentence in report.errors]
    for grade in report.grades:
        said = "passed" if grade.passed else "not passed"
        parts.append(f"<h2>{escape(grade.solver)}: {said}, {number(grade.points)} of {number(grade.of)} points</h2>")
        rows = "".join(_row(v, book) for v in grade.verdicts)
        parts.append(f"<table><tr><th></th><th>check</th><th>points</th><th>measured</th></tr>{rows}</table>")
        if grade.results:
            parts.append(plot(grade))
            parts += [f"<pre>{escape(title)}\n{escape(result.table())}</pre>" for title, result in grade.results]
        if grade.output.strip():
            parts.append(f"<h3>It printed</h3><pre>{escape(grade.output[-2000:])}</pre>")
    return page(report.file, "\n".join(parts))


def _row(v: Verdict, book: str) -> str:
    more = "<br>" + link(v.see, book) if v.status == "failed" else ""
    worth = f"{number(v.points)} of {number(v.of)}" if v.of else ""
    return (
        f"<tr class='{v.status}'><td>{v.status}</td><td>{escape(v.title)}</td><td>{worth}</td>"
        f"<td>{escape(v.reason)}{more}</td></tr>"
    )


def link(see: str, book: str) -> str:
    """A link to a section of the book at an address; without one its name alone."""
    said = f"see {escape(see)}"
    return f'<a href="{escape(book.rstrip("/"))}/{escape(see)}">{said}</a>' if book else said


def plot(grade: Grade) -> str:
    """The order plot of a solver as SVG text."""
    from diffnum.measure import plots

    return plots.svg(plots.convergence([replace(result, name=title) for title, result in grade.results]))
