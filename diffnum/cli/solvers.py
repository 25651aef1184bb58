"""``diffnum solvers``."""

import inspect
import re
from typing import Any

from diffnum.cli.common import app, explained
from diffnum.named import GRIDS

#: TeX's names of the letters that summaries use.
LETTERS = {
    **{"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "kappa": "κ", "lambda": "λ"},
    **{"mu": "μ", "nu": "ν", "phi": "φ", "psi": "ψ", "rho": "ρ", "sigma": "σ", "tau": "τ"},
    **{"Gamma": "Γ", "Phi": "Φ", "Psi": "Ψ", "Sigma": "Σ", "le": "≤", "ge": "≥", "to": "→"},
}


@app.command()
@explained
def solvers() -> None:
    """List the solvers with what each claims: order, cost, and where it is from.

    The order is that on the log_snr grid; where it differs on another grid or with an option, that is added. Claims are
    measured by the library's tests, and by you:

        diffnum order --solver ddim
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from diffnum.solvers import registry

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in ("solver", "order", "NFE", "kind", "processes", "what it is", "source"):
        table.add_column(header, no_wrap=header in ("solver", "NFE", "kind"))
    for name, run in registry.items():
        claims: Any = run
        first = (inspect.getdoc(run) or "").partition("\n")[0]  # nothing, under PYTHONOPTIMIZE=2
        summary = plain(first.rstrip("."))
        table.add_row(
            name, orders(claims), cost(claims), claims.kind, ", ".join(claims.families), summary, claims.paper
        )
    console = Console()
    console.print(table, markup=False) if console.is_terminal else Console(width=220).print(table, markup=False)


def plain(text: str) -> str:
    r"""A docstring's line as a terminal shows it: ``:math:`\\rho``` becomes the letter."""
    text = text.replace(":math:", "").replace("`", "").replace("{", "").replace("}", "")
    return re.sub(r"\\([A-Za-z]+)", lambda found: LETTERS.get(found[1], found[1]), text)


def orders(run: Any) -> str:
    """The claimed order on the log_snr grid, then where it differs: ``2 (sigma grid: 4; midpoint=sigma: 4)``."""
    usual = run.order(grid="log_snr")
    cases = [(f"{grid} grid", run.order(grid=grid)) for grid in GRIDS]
    cases += [(f"{k}={v}", run.order(grid="log_snr", **{k: v})) for k, known in run.values.items() for v in known]
    if "phi" in inspect.signature(run.order).parameters:
        cases.append(("phi=x", run.order(grid="log_snr", phi="x")))
    elsewhere = "; ".join(f"{case}: {p}" for case, p in cases if p != usual)
    return f"{'weak ' if run.kind == 'sde' else ''}{usual}{f' ({elsewhere})' if elsewhere else ''}"


def cost(run: Any) -> str:
    """Evaluations for n steps as a formula, from the claim at 20 and 40 steps: ``n + 9``; those of no claim count."""
    if run.nfe is None:
        return "counted"
    a, b = run.nfe(20), run.nfe(40)
    slope = (b - a) // 20
    offset = a - 20 * slope
    return f"{'' if slope == 1 else f'{slope}'}n" + (f" + {offset}" if offset else "")
