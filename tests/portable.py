"""Tests and labs under other arithmetics on one machine: ``make portable``, and ``make portable-quick`` for a part.

    python -m tests.portable            unit tests and labs under every arithmetic below (an hour or two); what differs
    python -m tests.portable --quick    tests of orders, exactness and golden values, and their labs, under one of them,
                                        another for another commit

Kernels of linear algebra, vectors and convolutions round in other ways on other processors. The variables below choose
among the kernels that this machine can run; ULPS adds errors of its own (tests/ulps/sitecustomize.py), for the kernels
that it cannot.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
ARITHMETICS = {
    "as it is": {},
    # the other two ask the same of NumPy's kernels and of convolutions
    "MKL_CBWR=COMPATIBLE": {"MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Prescott", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "MKL_CBWR=AVX2": {"MKL_CBWR": "AVX2"},
    "ATEN_CPU_CAPABILITY=default": {"ATEN_CPU_CAPABILITY": "default"},
    # threads of several workers that spin while they wait would take the cores from each other
    "OMP_NUM_THREADS=2": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "ULPS=4": {"ULPS": "4"},
}
SLOW = ("OMP_NUM_THREADS=2", "ULPS=4")  # not for every commit
FOREIGN = [name for name, about in ARITHMETICS.items() if about and name not in SLOW]
UNIT = ("-m", "not gpu and not trial")
LABS = ("-W", "default", "--dist", "loadfile", "--nbval", "--nbval-current-env", "--nbval-sanitize-with",
        "tests/sanitize.cfg", "--nbval-cell-timeout", "3600", "--ignore=notebooks/assignments")  # fmt: skip
QUICK = "order or exact or golden or empirical or point_mass or reductions"  # in the name of a test, file or lab


def pytest(name: str, workers: str, *arguments: str, quiet: bool) -> int:
    """Run pytest under an arithmetic."""
    paths = [ROOT / "tests" / "ulps", ROOT] if "ULPS" in ARITHMETICS[name] else [ROOT]
    env = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    call = [sys.executable, "-m", "pytest", "-q", "-n", workers, *arguments]
    said = subprocess.DEVNULL if quiet else None
    return subprocess.run(call, cwd=ROOT, env={**os.environ, **env, **ARITHMETICS[name]}, stdout=said).returncode


def failures(name: str, workers: str, *arguments: str) -> tuple[int, dict[str, str]]:
    """How many tests ran under an arithmetic, and the first line that each failing one said."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        status = pytest(name, workers, "--tb=line", f"--junitxml={report}", *arguments, quiet=True)
        if status not in (0, 1) or not report.is_file():
            sys.exit(f"pytest {' '.join(arguments)} ended with status {status} under {name}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {}
    for case in cases:
        for trouble in (*case.iter("failure"), *case.iter("error")):
            where = f"{case.get('classname')}::{case.get('name')}"
            failed[where] = next(iter((trouble.get("message") or "").splitlines()), "")[:160]
    return len(cases), failed


def everything(names: list[str], workers: str) -> int:
    """Unit tests and labs under each arithmetic; what fails, where the first arithmetic did not fail too."""
    usual: dict[str, str] = {}
    bad = 0
    for name in names:
        ran, failed = 0, {}
        for arguments in (UNIT, (*LABS, "notebooks")):
            count, more = failures(name, workers, *arguments)
            ran, failed = ran + count, failed | more
        differs = {where: said for where, said in failed.items() if where not in usual}
        bad += len(differs)
        print(
            f"{name}: {ran} tests and cells, {len(differs) or 'nothing'} {'fail' if differs else 'differs'}", flush=True
        )
        for where, said in differs.items():
            print(f"  {where}\n    {said}", flush=True)
        usual = usual or failed
    return int(bad > 0)


def of_this_commit() -> str:
    """A foreign arithmetic: another for another commit, the same when a commit is tried again."""
    call = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    said = subprocess.run(call, capture_output=True, text=True).stdout.strip()
    return FOREIGN[int(said or "0", 16) % len(FOREIGN)]


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.portable", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a part of the tests, under one arithmetic")
    parser.add_argument("--only", choices=ARITHMETICS, help="this arithmetic; with --quick by default one by commit")
    parser.add_argument("--workers", default="2", help="processes")
    asked = parser.parse_args()
    if not asked.quick:
        return everything([asked.only] if asked.only else list(ARITHMETICS), asked.workers)
    name = asked.only or of_this_commit()
    print(f"under {name} (again: make portable-quick ONLY={name!r})", flush=True)
    return pytest(name, asked.workers, *UNIT, *LABS, "-k", QUICK, "tests", "notebooks", quiet=False)


if __name__ == "__main__":
    sys.exit(main())
