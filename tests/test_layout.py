"""The layout of the repository, enforced: floors of the library, entries at the top, notebooks executed and clean."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "diffnum"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted(p for p in (ROOT / "notebooks").glob("*.ipynb"))

TOP_LEVEL = {
    *("book", "diffnum", "notebooks", "tests"),
    *("_config.yml", "_toc.yml", "pyproject.toml", "constraints.txt", "Makefile", "MANIFEST.in"),
    *("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"),
}

# A module imports only from floors below its own. `diffnum.solvers.pndm` is looked up as such, then as `solvers`.
FLOORS = {
    "errors": -1,
    "exploring": -0.9,
    "arguments": -0.8,
    "ambient": -0.7,
    "weights": -1,
    "kept": -0.6,
    "coefficients": 0,
    "dct": 0,
    "devices": -0.5,
    "files": -0.5,
    "grids": 0,
    "noise": 0,
    "processes": 1,
    "denoisers": 1,
    "problem": 2,
    "named": 2,
    "stability": 2.5,
    "runner": 3,
    "solvers.ddim": 4,
    "solvers.reverse_sde": 4,
    "solvers.exponential_adams": 4.05,  # its loop also runs with noise
    "solvers": 4.1,  # the papers: they may use the transfer map of ddim, but not each other
    "solvers.__init__": 4.2,  # the registry sees all of them
    "measure.plots": 4.5,
    "measure.reference": 5,
    "measure.convergence": 5.1,
    "measure.stochastic": 5.2,
    "measure.work": 5.2,
    "measure.standard": 5.2,
    "measure.pilot": 5.2,
    "measure.analysis": 5.3,  # the public names of the six above
    "measure.checks": 5.4,
    "measure": 5.5,
    "interop.needed": 5.9,
    "interop.audit.bench": 6,
    "interop.audit": 6.1,
    "interop.audit.of_diffnum": 6.6,
    "interop.audit.of_file": 6.7,  # these two read files of strangers, as the classroom does
    "interop.audit.session": 6.7,
    "interop.golden": 6.6,
    "interop.samplers": 6.1,
    "interop.scheduler": 6.1,
    "interop.networks": 6,
    "interop.questions": 6,
    "interop": 6.2,
    "interop.__init__": 6.3,
    "images.data": 6,
    "images.optimisers": 6,
    "images.provenance": 6,
    "images.processes": 5.9,
    "images.background": 6,
    "images.shards": 6,
    "images.checkpoint": 6,
    "images.features": 6.05,
    "images.metrics": 6.05,
    "images.tasks": 6.1,
    "images.quality": 6.1,
    "images.guiding": 6.15,
    "images.job": 6.15,
    "images.train": 6.2,
    "images": 6.3,
    "__init__": 6.5,  # the public names, for what reads like a lab and for the command line; nothing below uses them
    "claims": 6.6,
    "classroom": 6.6,
    "cli.common": 7,
    "cli.shared": 7.05,
    "cli": 7.1,
    "cli.__init__": 7.2,
    "__main__": 7.3,
    "cli.__main__": 7.4,
}
SHARED_INSIDE = {
    "processes",
    "denoisers",
    "derive",
    "claims",
    "classroom",
    "interop",
}  # files of these packages may import each other
LINES = 450  # of a file of the library: a reader takes in one screen after another, not a thousand lines
FORBIDDEN_IN_SOLVERS = {"sympy", "matplotlib", "PIL", "typer", "rich", "safetensors", "pooch"}
ONLY_IN = {  # each of these libraries is imported by the modules that are about it
    "sympy": {"derive", "claims"},
    "matplotlib": {"measure", "cli"},
    "typer": {"cli"},
    "safetensors": {"denoisers", "images"},
    "pooch": {"denoisers", "images"},
}


def module_name(path: Path) -> str:
    """`diffnum/solvers/pndm.py` -> "solvers.pndm"; `diffnum/__init__.py` -> "__init__"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def floor_of(module: str) -> float:
    """The floor of a module: by its full name, else by its first part."""
    for key in (module, module.removesuffix(".__init__") if module.count(".") > 1 else module, module.split(".")[0]):
        if key in FLOORS:
            return FLOORS[key]
    raise AssertionError(f"diffnum.{module} has no floor: add it to FLOORS in {Path(__file__).name}")


def resolve(target: str) -> str:
    """The module that an absolute dotted name inside diffnum denotes: "solvers.pndm.prk" -> "solvers.pndm"."""
    parts = target.split(".") if target else []
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file():
            return ".".join(parts[:length])
        if (path / "__init__.py").is_file():
            return ".".join([*parts[:length], "__init__"])
    return "__init__"


def imports(path: Path):
    """Yield (dotted name, lazy) for every import in a file; names of ours start with "diffnum"."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    typing_only = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test)
        for inner in ast.walk(outer)
    }
    package = ("diffnum", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) in lazy


def floor_violations(path: Path) -> list[str]:
    """Every import of a file that goes up, sideways, or into the other tower."""
    module, bad = module_name(path), []
    top = module.split(".")[0]
    for name, _ in imports(path):
        library = name.split(".")[0]
        if top == "derive":
            ours = library == "diffnum" and resolve(name.partition(".")[2]).startswith("derive")
            if not (ours or library == "sympy" or library in sys.stdlib_module_names):
                bad.append(f"{module} imports {name}: derive needs only SymPy and the standard library")
            continue
        if library != "diffnum":
            if top == "solvers" and library in FORBIDDEN_IN_SOLVERS:
                bad.append(f"{module} imports {name}: solvers do without {library}")
            if library in ONLY_IN and top not in ONLY_IN[library]:
                bad.append(f"{module} imports {name}: {library} belongs in {', '.join(sorted(ONLY_IN[library]))}")
            continue
        target = resolve(name.partition(".")[2])
        if target.startswith("derive"):
            if floor_of(module) < 6.6:
                bad.append(f"{module} imports {name}: the two towers meet only in claims, tests and notebooks")
            continue
        target_top = target.split(".")[0]
        if target == module or (top in SHARED_INSIDE and target_top == top):
            continue
        if floor_of(target) >= floor_of(module):
            bad.append(f"{module} (floor {floor_of(module)}) imports {name} (floor {floor_of(target)})")
    return bad


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_floors(path):
    assert not floor_violations(path), "\n".join(floor_violations(path))


FACTORIES = {"tensor", "as_tensor", "zeros", "ones", "full", "empty", "eye", "arange", "linspace", "rand", "randn"} | {
    *("randint", "randperm"),
}
# Programs of their own, where nobody else sets a default device.
PROGRAMS = {"claims", "classroom", "cli", "audit"}


def unplaced(source: str) -> list[str]:
    """Tensors that a text makes on the default device of torch, which is the caller's to choose."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        ast.unparse(call)
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "torch"
        and call.func.attr in FACTORIES
        and not any(keyword.arg == "device" for keyword in call.keywords)
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: module_name(path))
def test_files_of_tensors_are_read_once(path):
    """`safetensors` opens a path twice, for the names and for the numbers; a training run may replace it in between."""
    assert not {"safe_open", "load_file"} & {node.name for node in ast.walk(ast.parse(path.read_text("utf-8")))
                                            if isinstance(node, ast.alias)}  # fmt: skip


def test_no_tensor_is_made_on_the_default_device():
    assert unplaced("torch.zeros(3); torch.ones(2, device=u.device); u.new_zeros(2)") == ["torch.zeros(3)"]
    files = [p for p in SOURCES if not PROGRAMS & set(p.relative_to(PACKAGE).parts)]
    found = [f"{path.relative_to(ROOT)}: {call}" for path in files for call in unplaced(path.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_floor_rule_catches_what_it_forbids(monkeypatch, tmp_path):
    """The rule itself, tried on a small broken package."""
    broken = {
        "problem.py": "from .runner import solve",  # up
        "runner.py": "from . import problem",
        "grids.py": "def f():\n    import diffnum.problem",  # up, hidden in a function
        "solvers/__init__.py": "from . import pndm",
        "solvers/ddim.py": "import sympy",
        "solvers/pndm.py": "from ..derive.pndm import weights\nfrom .ddim import transfer\nfrom .gddim import gddim",
        "solvers/gddim.py": "from ..problem import Problem",
        "derive/__init__.py": "",
        "derive/pndm.py": "import numpy\nimport sympy\nfrom . import classical",
        "derive/classical.py": "from fractions import Fraction",
        "measure/work.py": "from .plots import convergence",
        "measure/plots.py": "import matplotlib\ndef f():\n    from .work import WorkPrecision",  # a circle
    }
    for name, text in broken.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    counts = {name: len(floor_violations(tmp_path / name)) for name in broken}
    assert counts == dict.fromkeys(broken, 0) | {
        "problem.py": 1,
        "grids.py": 1,
        "solvers/ddim.py": 2,  # SymPy in a solver, and outside derive
        "solvers/pndm.py": 2,
        "derive/pndm.py": 1,
        "measure/plots.py": 1,
    }


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_private_names_cross_modules(path):
    assert path.stem.startswith("__") or not path.stem.startswith("_"), "a module has a plain name"
    private = [
        name
        for name, _ in imports(path)
        if name.startswith("diffnum") and re.search(r"\._[^_.]", "." + name.partition(".")[2])
    ]
    assert not private, f"private names of another module: {private}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_file_is_too_long(path):
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= LINES, f"{count} lines; split a file of more than {LINES} by theme"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_device_follows_the_state(path):
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"
    ]
    assert not calls, f"`.cuda()` in lines {calls}: device and dtype follow the state"


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=relative)
def test_command_line_imports_torch_lazily(path):
    """`diffnum --help` answers at once: the commands need neither torch nor its like until they run."""
    eager = {name.split(".")[0] for name, lazy in imports(path) if not lazy}
    assert not eager & {"torch", "numpy", "scipy", "sympy", "matplotlib", "PIL", "safetensors"}


def test_top_level_entries():
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode or not listing.stdout:
        pytest.skip("not a git checkout")
    entries = {name.split("/")[0] for name in listing.stdout.split("\0") if name and (ROOT / name).exists()}
    unexpected = {name for name in entries if not name.startswith(".")} - TOP_LEVEL
    assert not unexpected, f"unexpected at the top level: {sorted(unexpected)}"


def test_readme_lists_every_solver_with_its_claims():
    """The table in README names the registered solvers, in order, with the evaluations and the order they claim."""
    from diffnum.solvers import registry

    rows = re.findall(
        r"^\| `(\w+)` \| (\d).*? \| (?:(counted)|(\d*)n(?: \+ (\d+))?) \|",
        (ROOT / "README.md").read_text("utf-8"),
        re.M,
    )
    listed = {
        name: (int(order), None if counted else 40 * int(slope or 1) + int(start or 0))
        for name, order, counted, slope, start in rows
    }
    grid = {"fon": "uniform"}
    claims = {name: (f.order(grid=grid.get(name, "log_snr")), f.nfe and f.nfe(40)) for name, f in registry.items()}
    assert listed == claims


PAGES = sorted((ROOT / "book").rglob("*.md")) + NOTEBOOKS


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_no_raw_references(path):
    r"""`\eqref` and `\ref` render as "(???)" without a warning."""
    assert not re.search(r"\\(eq)?ref\{", path.read_text(encoding="utf-8")), "refer with {eq}`label`"


def stored_text(output) -> str:
    """The text of one stored output."""
    data = output.get("data", {})
    parts = [output.get("text", ""), *(v for k, v in data.items() if k.startswith("text/"))]
    return "".join("".join(part) for part in parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_notebook_is_executed_and_clean(path):
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    cells = [cell for cell in cells if "".join(cell["source"]).strip()]
    counts = [cell["execution_count"] for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), f"run it from top to bottom (make execute); counts are {counts}"
    assert any(cell["outputs"] for cell in cells), "no stored outputs: run `make execute`"
    for cell in cells:
        tags = cell["metadata"].get("tags", [])
        where = "".join(cell["source"])[:80]
        assert "execution" not in cell["metadata"], f"time stamps in {where!r}: run `make execute`"
        for output in cell["outputs"]:
            assert output["output_type"] != "error" or "raises-exception" in tags, f"an error in {where!r}"
            assert output.get("name") != "stderr", f"text on stderr in {where!r}"
            assert not re.search(r"/(home|root|tmp|work|Users)/", stored_text(output)), f"a machine path in {where!r}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_every_assertion_of_a_lab_says_what_was_expected(path):
    """A reader who changes a lab sees the message, and it must tell him what of what differs now."""
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    trees = [ast.parse("".join(cell["source"])) for cell in cells]
    mute = [
        ast.unparse(node.test)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and (node.msg is None or not re.search(r"\w{2,}.* .*\w", ast.unparse(node.msg)))
    ]
    assert not mute, f"no message, or one of a single word: {mute}"


def markdown():
    """Every page and every Markdown cell: (where, text)."""
    for page in sorted((ROOT / "book").rglob("*.md")):
        yield page.name, page.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "markdown":
                yield f"{path.name}, cell {i}", "".join(cell["source"])


def broken_formulas(text):
    """Lines inside a formula of the text that begin like a list or a comment: there Markdown ends the formula."""
    text = re.sub(r"^(```+)(\w|\{math|\{code).*?^\1", "", text, flags=re.M | re.S)
    text = re.sub(r"\$\$.*?\$\$|`[^`\n]*`|\\\$", "", text, flags=re.S)
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.split("\n")
        for i, line in enumerate(lines):
            if re.match(r"\s*([-+*]\s|%)", line) and "\n".join(lines[:i]).count("$") % 2:
                yield line


def test_no_formula_is_taken_for_a_list():
    assert list(broken_formulas("so $a\n- b$ it is")) == ["- b$ it is"] and not list(broken_formulas("- $a - b$\n- c"))
    found = [f"{where}: {line}" for where, text in markdown() for line in broken_formulas(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_a_lab_begins_ready_to_be_changed_and_ends_with_a_turn_of_the_reader(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    first = next(s for s, cell in zip(sources, cells, strict=True) if cell["cell_type"] == "code")
    assert "dn.explore()" in first and "pip install" in first, "the first cell says how to run and change the lab"
    assert any("## Your turn" in s for s in sources[-3:]), "the last cells are 'Your turn'"


def code_of_pages():
    """Lines of code blocks of the pages, in a language or none: (where, line). Directives are looked into."""
    for page in sorted((ROOT / "book").rglob("*.md")):
        code, directives = "", []
        for line in page.read_text(encoding="utf-8").splitlines():
            mark, what = re.match(r"(`{3,})?(.*)", line).groups()
            if code:
                if line == code:
                    code = ""
                else:
                    yield page.name, line
            elif mark and what.startswith("{"):
                directives.append(mark)
            elif directives and line == directives[-1]:
                directives.pop()
            elif mark:
                code = mark


def test_code_on_pages_fits_the_page():
    """The book cuts wider lines off; cells of labs are held to the same width by notebooks/ruff.toml."""
    wide = [f"{where}: {line}" for where, line in code_of_pages() if len(line) > 88]
    assert not wide, "\n".join(wide)


def test_every_figure_says_in_words_what_it_shows():
    """For readers who cannot see it; the caption tells the conclusion, the text what is there."""
    mute = []
    for where, text in markdown():
        for block in re.findall(r"^```\{figure\} [^\n]*\n.*?^```", text, re.M | re.S):
            if not re.search(r"^:alt: .{30}", block, re.M):
                mute.append(f"{where}: {block.splitlines()[0]}")
    assert not mute, "\n".join(mute)
