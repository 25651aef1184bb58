"""What a GPU is lent for: its tests, then a table of throughput; stops by itself.

python -m tests.gpu [--seconds 230] [--device cuda] [--out FOLDER] [--no-tests]

Every row is in FOLDER/throughput.json as soon as it is measured. Rows that no time was left for are named.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

import diffnum as dn
from diffnum.files import write

ROOT = Path(__file__).parents[1]
WAYS: dict[str, dict[str, bool]] = {
    "float32": {}, "bfloat16": {"half": True}, "compiled": {"compile": True},
    "bfloat16, compiled": {"half": True, "compile": True},
}  # fmt: skip
SOLVERS = ("plms", "ddim", "er_sde")
BATCHES = (256, 1024, 64)
SHARE = 0.6  # of the time, for the tests
ROW = 12.0  # seconds that a row may need; no row is begun with less left


def seconds_of(call: Callable[[], Any], device: str, repeat: int = 3) -> float:
    """Median of some calls, each with the device idle before and after."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    taken = []
    for _ in range(repeat):
        wait()
        begun = time.perf_counter()
        call()
        wait()
        taken.append(time.perf_counter() - begun)
    return median(taken)


def rows(device: str, batches: tuple[int, ...], steps: int = 10, **given: Any) -> Iterator[dict[str, Any]]:
    """For every way to run the network and every batch: images per second of the bare network, and share of solvers."""
    for batch, (way, options) in product(batches, WAYS.items()):
        network: Any = dn.load("cifar10", **options, **given)
        problem = dn.Problem(dn.VP(), network)
        u = problem.prior((batch, *network.shape), device=device, seed=0)
        times = dn.grids.log_snr(problem.process, steps)
        network.eps(u, 1.0)  # compiled, or its kernels chosen, now
        bare = seconds_of(lambda: [network.eps(u, 1.0) for _ in range(steps)], device)
        row: dict[str, Any] = {"way": way, "batch": batch, "evaluations_per_second": batch * steps / bare}
        for solver in SOLVERS:
            run = dn.solve(problem, solver, u, times)
            taken = seconds_of(lambda: dn.solve(problem, solver, u, times), device)
            row[solver] = bare / steps * run.nfe / taken  # 1: nothing but the network costs
        yield row


def out_of_time(status: int) -> None:
    """End, whatever is being done; the rows measured so far are in the file."""
    print("the time is up in the middle of a row", file=sys.stderr, flush=True)
    os._exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Tests, then rows until the time is up; 1 if a test failed or there is no such device."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=230.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / ".runs" / "gpu"))
    parser.add_argument("--no-tests", action="store_true")
    given, begun = parser.parse_args(arguments), time.monotonic()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here; --device cpu tries this script itself", file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    status, torch.backends.cuda.matmul.allow_tf32 = 0, False
    if not given.no_tests:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
        try:
            status = subprocess.run(command, cwd=ROOT, timeout=SHARE * given.seconds).returncode
        except subprocess.TimeoutExpired:
            print(f"the tests were stopped after {SHARE * given.seconds:.0f} s", file=sys.stderr)
            status = 1
    about = {"device": given.device, "torch": torch.__version__, "tests": status, "rows": []}
    if given.device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    wanted, table = len(BATCHES) * len(WAYS), rows(given.device, BATCHES)
    end = threading.Timer(max(given.seconds - (time.monotonic() - begun), 0.1), out_of_time, (status,))
    end.daemon = True  # a compiler cannot be asked to stop
    end.start()
    while given.seconds - (time.monotonic() - begun) > ROW and (row := next(table, None)):
        about["rows"].append(row)
        text = json.dumps(about, indent=1)
        write(given.out / "throughput.json", lambda file: file.write(text.encode()))
        print(row, flush=True)
    end.cancel()
    if left := wanted - len(about["rows"]):
        print(f"no time was left for {left} of {wanted} rows", file=sys.stderr)
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
