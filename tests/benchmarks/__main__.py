"""Run all benchmarks, print the tables, write `book/results/bench.json`, and exit with 1 where a limit is broken.

OMP_NUM_THREADS=1 python -m tests.benchmarks [--quick] [--note TEXT] [--out FILE]
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from diffnum.files import write
from diffnum.solvers import registry
from tests.benchmarks import overhead, peers, scaling

ROOT = Path(__file__).resolve().parents[2]
RATIO, THROUGHPUT, EXTRA, EMPIRICAL = 1.3, 0.97, 3, 1.5  # the limits of the issues
PHASE_SPACE, NOISE = 2.5, 3
IMPORT, HELP = 1.05, 0.4  # `import diffnum` over `import torch`; seconds of `diffnum --help`
NEW_GRID = {20: 0.5, 1000: 10.0}  # milliseconds of a new grid by its steps; those below may take more
DEARER = {"gddim": {20: 2.0, 1000: 60.0}, "er_sde": {20: 2.0, 1000: 60.0}}


def machine() -> dict[str, Any]:
    """What the numbers were measured on, without names or paths."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "date": datetime.date.today().isoformat(),
    }


def rounded(value: Any) -> Any:
    """Three significant digits, in everything."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def broken(result: dict[str, Any]) -> list[str]:
    """The limits that do not hold, in words. Times are judged by minima: what disturbs a run only adds time."""
    found = []
    lerps = {row.name: row.lerps for row in overhead.ROWS if row.lerps}
    for name, row in result["overhead"]["solvers"].items():
        if row["ratio_min"] > RATIO:
            found.append(f"{name}: {row['ratio_min']:.2f} times its hand-written form, {RATIO} allowed")
        if row["lerps"] > lerps.get(name, float("inf")):
            found.append(f"{name}: {row['lerps']:.1f} passes of torch.lerp, {lerps[name]} allowed")
        if row["states"] > row["history"] + EXTRA:
            found.append(f"{name}: {row['states']:.1f} states of memory, {row['history'] + EXTRA} allowed")
    for order, ratio in result["overhead"]["phase_space"].items():
        if ratio > PHASE_SPACE:
            found.append(f"gddim, order {order}: {ratio:.2f} times VP's time per number on CLD, {PHASE_SPACE} allowed")
    if result["throughput"]["fraction"] < THROUGHPUT:
        found.append(f"throughput: {result['throughput']['fraction']:.3f} of the network's own, {THROUGHPUT} asked for")
    for shape, ratio in result["noise"].items():
        if ratio > NOISE:
            found.append(f"noise {shape}: {ratio:.2f} times torch.randn_like, {NOISE} allowed")
    found += broken_scaling(result["scaling"]) if "scaling" in result else []
    for row, (library, ratio) in peers.fastest(result.get("peers", {})).items():
        if ratio < 1:
            found.append(f"{row}: {1 / ratio:.2f} times as dear as in {library}")
    empirical = result.get("empirical", {}).get("largest_ratio", 0)
    if empirical > EMPIRICAL:
        found.append(f"Empirical: {empirical:.2f} times its two matrix products, {EMPIRICAL} allowed")
    return found


def broken_scaling(scaling: dict[str, Any]) -> list[str]:
    """The limits of start, new grids and memory that do not hold, in words."""
    found, start = [], scaling["import"]
    if start["diffnum_over_torch"] > IMPORT:
        found.append(f"import diffnum: {start['diffnum_over_torch']:.2f} times import torch, {IMPORT} allowed")
    if start["help_s"] > HELP:
        found.append(f"diffnum --help: {start['help_s']:.2f} s, {HELP} allowed")
    for name, times in scaling["new_grid_ms"].items():
        limits = DEARER.get(name, NEW_GRID)
        wrong = [(n, ms) for n, ms in times.items() if ms > limits[int(n)]]
        found += [f"{name}: {ms:.1f} ms for a new grid of {n} steps, {limits[int(n)]} allowed" for n, ms in wrong]
    for name, states in scaling["memory_states"].items():
        if max(states.values()) > min(states.values()) + 0.5:
            found.append(f"{name}: memory grows with the number of steps, {states}")
    return found


def show(result: dict[str, Any]) -> None:
    """The tables on the terminal."""
    console, bench = Console(width=150), result["overhead"]
    quartiles = " to ".join(f"{q:.1f}" for q in bench["lerp_quartiles_us"])
    console.print(f"{result['machine']}", markup=False)
    console.print(f"one torch.lerp pass: {bench['lerp_us']:.1f} us (quartiles {quartiles})")
    table = Table(box=SIMPLE_HEAD, title="per network evaluation, network excluded", title_justify="left")
    for header in ("solver", "us", "lerps", "(min)", "by hand", "ratio", "(min)", "(halves)", "passes", "states",
                   "first grid us"):  # fmt: skip
        table.add_column(header, justify="left" if header == "solver" else "right")
    for name, row in bench["solvers"].items():
        halves = " ".join(f"{half:.2f}" for half in row["ratio_halves"])
        table.add_row(
            name, f"{row['us']:.0f}", f"{row['lerps']:.1f}", f"{row['lerps_min']:.1f}", f"{row['hand_lerps']:.1f}",
            f"{row['ratio']:.2f}", f"{row['ratio_min']:.2f}", halves, f"{row['passes']:.3g}",
            f"{row['states']:.0f} <= {row['history']}+{EXTRA}", f"{row['first_grid_us']:.0f}",
        )  # fmt: skip
    console.print(table, markup=False)
    pairs = ", ".join(f"order {order}: {ratio:.2f}" for order, ratio in bench["phase_space"].items())
    console.print(f"gddim per number of the state, CLD over VP: {pairs} (limit {PHASE_SPACE})", markup=False)
    run = result["throughput"]
    console.print(
        f"throughput of {run['solver']} at batch {run['batch']}: {run['fraction']:.3f} of the network's own "
        f"(minima {run['fraction_min']:.3f}; neighbouring calls of the network differ by {run['network_jitter']:.3f})"
    )
    draws = ", ".join(f"{shape}: {ratio:.2f}" for shape, ratio in result["noise"].items())
    console.print(f"a draw of the default noise in calls of torch.randn_like: {draws} (limit {NOISE})", markup=False)
    cost = result["guidance"]["ratio"]
    console.print(f"a guided evaluation takes {cost:.2f} times an unguided one")
    if "empirical" in result:
        console.print(f"Empirical: {result['empirical']}", markup=False)
    for row, (library, ratio) in peers.fastest(result.get("peers", {})).items():
        console.print(f"{row}: the cheapest peer, {library}, takes {ratio:.2f} times as long", markup=False)
    if result["not_measured"]:
        console.print(f"no hand-written form, not measured: {', '.join(result['not_measured'])}")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds, a small batch, no Empirical")
    parser.add_argument("--note", help="a sentence to store with the result: what should be known about this run")
    parser.add_argument("--out", type=Path, default=ROOT / "book" / "results" / "bench.json")
    given = parser.parse_args()
    rounds = overhead.ROUNDS // 10 if given.quick else overhead.ROUNDS
    torch.set_num_threads(1)
    with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        task = bar.add_task("solvers", total=rounds)
        result = {
            "machine": machine(),
            "overhead": overhead.measure(rounds=rounds, watch=lambda i: bar.update(task, completed=i)),
        }
        bar.update(task, completed=rounds)
    measured = {row.solver for row in overhead.ROWS}
    result["not_measured"] = [name for name in registry if name not in measured]
    result["throughput"] = overhead.throughput(batch=8 if given.quick else 64, steps=4 if given.quick else 30)
    result["noise"] = overhead.noise(rounds)
    result["guidance"] = overhead.guided(rounds=3 if given.quick else 9)
    if not given.quick and importlib.util.find_spec("tests.benchmarks.empirical"):
        from tests.benchmarks import empirical

        result["empirical"] = empirical.measure()
    if not given.quick:
        result["scaling"] = scaling.measure()
        result["peers"] = peers.measure()
    result["limits"] = {
        "ratio": RATIO, "throughput": THROUGHPUT, "extra_states": EXTRA, "empirical": EMPIRICAL,
        "phase_space": PHASE_SPACE, "noise": NOISE, "import": IMPORT, "help_s": HELP, "new_grid_ms": NEW_GRID,
    }  # fmt: skip
    result = rounded(result)  # limits are judged by the digits that are stored
    result["broken"] = broken(result)
    if given.note:
        result["note"] = given.note
    show(result)
    text = json.dumps(result, indent=1) + "\n"
    write(given.out, lambda file: file.write(text.encode()))
    for line in result["broken"]:
        print(f"limit broken: {line}", file=sys.stderr)
    return 1 if result["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
