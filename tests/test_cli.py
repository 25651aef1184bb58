"""The command line: what it prints and writes, and how it refuses."""

import errno
import inspect
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from diffnum import cli
from diffnum.cli.common import PIXELS, Meter, Stream, solver_options
from diffnum.cli.solvers import cost

ROOT = Path(__file__).parents[1]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run ``diffnum ...`` in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli.app, [str(a) for a in arguments])


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def python(code, *arguments, **more):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600,
        env={**os.environ, **more},
    )  # fmt: skip


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, diffnum.cli as c\n"
        "try: c.main()\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        "slow = {'torch', 'numpy', 'scipy', 'matplotlib', 'sympy', 'PIL'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    run = python(code, "--help")
    assert run.returncode == 0, run.stderr
    assert all(command in run.stdout for command in ("sample", "solvers", "order", "compare", "train"))


def test_mistakes_and_refusals_are_one_line():
    code = "import diffnum.cli as c; c.main()"
    for arguments, status in ((["sample", "--stepz", "3"], 2), (["smaple"], 2), (["sample", "--steps", "x"], 2),
                              (["sample", "--solver", "f_pmdn"], 1)):  # fmt: skip
        run = python(code, *arguments)
        assert run.returncode == status, run.stderr
        assert run.stderr.startswith("diffnum: ") and run.stderr.count("\n") == 1 and not run.stdout


def test_text_suits_every_code_page_and_every_setting_of_python(tmp_path):
    """Help and tables are ASCII; names of files may not be, and are escaped where the code page lacks them."""
    group = typer.main.get_command(cli.app)
    for name, command in {"diffnum": group, **group.commands}.items():
        texts = [command.help, *(p.help or "" for p in command.params if hasattr(p, "help"))]
        assert all(text.isascii() for text in texts), name
    for page in ("ascii", "cp932", "cp1251"):
        raw = io.BytesIO()
        stream = Stream(io.TextIOWrapper(raw, encoding=page, errors="strict"))
        print("-> Fr\xe9chet-\u65e5\u0436-\udce9.png", file=stream, flush=True)
        assert raw.getvalue().decode(page).startswith("-> Fr\\xe9chet-")
    code = "import diffnum.__main__ as m; m.main()"
    for words, says in ((["quality", "--help"], "Frechet"), (["solvers"], "f_pndm")):
        run = python(code, *words, PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0", PYTHONOPTIMIZE="2")
        assert run.returncode == 0 and not run.stderr and (says in run.stdout or "--against" in run.stdout), run.stderr


class Broken(io.StringIO):
    """A standard output that cannot be written to."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.weights
@pytest.mark.parametrize(
    ("words", "out"),
    [
        ("order --solver ddim --steps 4,8 --target gaussian", "--out a.png"),
        ("compare --solver ddim --nfe 4 --target gaussian", "--out a.png"),
        ("sample --solver ddim --steps 1 -n 1", "--npz --out a.png"),
        ("quality --solver ddim --steps 1 -n 4 --half", "--out a.json"),
    ],
)
def test_results_come_before_words(tmp_path, monkeypatch, words, out):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises((typer.Exit, OSError)):
        cli.app([*words.split(), *out.split()], standalone_mode=False)
        raise typer.Exit(1)  # with standalone_mode=False a status is returned
    assert (tmp_path / out.split()[-1]).stat().st_size > 100
    assert "npz" not in out or (tmp_path / "a.npz").exists()


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_a_reader_that_has_gone_is_no_error(tmp_path):
    """`| head -1`: a quiet end, the result kept, and the status that the work deserves."""
    for words, status in ((["--help"], 0), (["order", "--solver", "ddim", "--steps", "80,160"], 0),
                          (["order", "--solver", "ab4", "--steps", "2,4", "--grid", "uniform"], 1)):  # fmt: skip
        read, write = os.pipe()
        os.close(read)
        run = subprocess.run(
            [sys.executable, "-m", "diffnum", *words], stdout=write, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            timeout=600, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        os.close(write)
        assert run.returncode == status and not run.stderr, run.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ab4_order.png", "ddim_order.png"]
    if os.path.exists("/dev/full"):
        buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}  # it would hide much
        words = ["golden", "--solver", "ddim", "--steps", "1", "--out", str(tmp_path / "short.json")]
        with open("/dev/full", "w") as full:
            run = subprocess.run([sys.executable, "-m", "diffnum", *words], stdout=full, stderr=subprocess.PIPE,
                                 text=True, cwd=ROOT, timeout=600, env=buffered)  # fmt: skip
        assert run.returncode == 1 and run.stderr == "diffnum: standard output: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
@pytest.mark.parametrize(
    ("number", "status", "says"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("when", ["typer", "diffnum.named", "torch"])
def test_signals_end_in_one_line_even_while_modules_are_imported(when, number, status, says):
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a program in the background lacks
        "class Send:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {when!r}: sys.meta_path.remove(self); os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Send())\n"
        "import diffnum.__main__ as m; m.main()"
    )
    run = python(code, "solvers")
    assert (run.returncode, run.stdout, run.stderr) == (status, "", f"diffnum: {says}\n")


def documented():
    """Every command line ``diffnum ...`` in the code blocks of the repository's documents."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("book/**/*.md"), *ROOT.glob("diffnum/weights/*.md")]
    for path in sorted(files):
        for line in path.read_text("utf-8").replace("\\\n", " ").splitlines():
            line = re.sub(r"^(srun )?torchrun .*-m (?=diffnum )", "", line.strip().removeprefix("$ "))
            if line.startswith("diffnum "):
                words = shlex.split(line, comments=True)
                yield pytest.param(words[1:], id=f"{path.name}: {' '.join(words)}")


@pytest.mark.parametrize("words", list(documented()))
def test_documented_commands_are_understood(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typer.main.get_command(cli.app).commands[words[0]].make_context(words[0], words[1:])


def test_version_and_help(call):
    from diffnum import __version__

    assert call("--version").output.strip() == f"diffnum {__version__}"
    for command in ("sample", "order", "compare", "solvers", "train"):
        result = call(command, "--help")
        assert result.exit_code == 0 and "diffnum" in result.output


def test_solvers_lists_every_claim(call):
    from diffnum.solvers import registry

    result = call("solvers")
    assert result.exit_code == 0
    assert all(name in result.output for name in registry)
    row = next(line for line in result.output.splitlines() if line.split()[:1] == ["f_pndm"])
    assert "n + 9" in row and row.split()[1] == "2" and "2202.09778" in row
    assert [cost(registry[name]) for name in ("ddim", "heun", "rk4", "s_pndm")] == ["n", "2n", "4n", "n + 1"]


def test_order_confirms_a_claim_and_draws_it(call, tmp_path):
    result = call("order", "--solver", "f_pndm", "--steps", "80,160,320", "--target", "gaussian")
    assert result.exit_code == 0, result.output
    assert "order 2 is claimed" in result.output and "confirmed" in result.output and "329" in result.output
    assert picture(tmp_path / "f_pndm_order.png").shape[:2] == (600, 960)


def test_order_says_when_a_claim_does_not_hold(call, tmp_path):
    result = call("order", "--solver", "f_pndm", "--steps", "20,40,80", "--t-end", "0", "--grid", "uniform",
                  "--target", "thin", "--out", "floor.png")  # fmt: skip
    assert result.exit_code == 1 and "not confirmed" in result.output
    assert (tmp_path / "floor.png").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("sample --solver f_pmdn", "f_pndm"),
        ("sample --steps 0", "whole number from 1"),
        ("sample -n 0", "whole number from 1"),
        ("sample -n -3", "whole number from 1"),
        ("sample --batch 0", "whole number from 1"),
        ("sample --device cuda:99", "does not exist"),
        ("sample --device abacus", "does not exist"),
        ("sample --device meta", "does not exist"),
        ("sample --dtype int8", "float32"),
        ("sample --process vpp", "did you mean vp"),
        ("sample --grid log_snt", "log_snr"),
        ("sample --grid log_snr --t-end 5", "t_end"),
        ("sample --solver heun --t-end 0", "cannot end"),
        ("sample --solver f_pndm --option midpont=t", "it has midpoint"),
        ("sample --solver f_pndm --option midpoint", "key=value"),
        ("sample --solver f_pndm --option midpoint=x", "sigma"),
        ("sample --solver pndm_variable --option order=two", "of type int"),
        ("sample --network nowhere", "cifar10"),
        ("sample --network nowhere.safetensors", "cannot read"),
        ("sample --seed -1", "whole number from 0"),
        ("sample --out missing/x.png", "does not exist"),
        ("sample --out x.jpg", ".png"),
        ("order --solver nothing", "did you mean"),
        ("order --solver ddim --steps 20,10", "increase"),
        ("order --solver ddim --steps ten", "whole numbers"),
        ("order --solver ddim --target rough", "smooth"),
        ("order --solver ddim --grid from_table", "did you mean"),
        ("order --solver ddim --out missing/x.png", "does not exist"),
        ("compare --solver f_pmdn", "f_pndm"),
        ("compare --solver ddim --solver pndm_variable:order=7", "order=7"),
        ("compare --solver pndm_variable:degree=3", "no option 'degree'"),
        ("compare --solver pndm_variable:order", "key=value"),
        ("compare --nfe 0", "whole number from 1"),
        ("compare --solver rk4 --nfe 3", "no solver fits"),
        ("compare --solver ddim --solver heun --t-end 0", "heun"),
        ("compare --target cifar10 --t-end 0", "leave --t-end out"),
        ("compare --target rough", "smooth"),
        ("compare --target nowhere.safetensors", "cannot read"),
        ("compare --target cifar10-blurring", "blurring"),
        ("compare --process vpp", "did you mean vp"),
        ("compare --grid from_table", "did you mean"),
        ("compare -n 0", "whole number from 1"),
        ("compare --seed -1", "whole number from 0"),
        ("compare --out missing/x.png", "--out missing/x.png: the folder"),
        ("compare --images missing/x.png", "--images missing/x.png: the folder"),
        ("compare --images x.npz --target cifar10", "--images x.npz must end"),
        ("compare --images x.png", "no images"),
        ("compare --target cifar10 --out x.png --images x.png", "name two files"),
        ("compare --target cifar10 --solver prk:midpoint=x", "midpoint"),
        *((f"{words} {10**23}", f"{words.split()[-1]}") for words in (
            "sample -n", "sample --steps", "sample --batch", "sample --columns", "sample --seed", "quality -n",
            "quality --steps", "order --solver ddim --steps 10,", "compare --nfe", "compare -n", "compare --seed",
            "order --solver ddim --seed",
        )),
        ("sample --scale 9223372036854775808", "--scale"),
        ("sample --scale 400", "image readers open"),
        ("compare --target cifar10 --images x.png --scale 900", "image readers open"),
        ("compare --scale 9223372036854775808", "--scale"),
        ("sample --device hpu", "does not exist"),
        (f"sample --out {'n' * 300}.png", "choose a shorter name"),
        (f"quality --out {'n' * 300}.json", "choose a shorter name"),
        ("order --solver ddim --process psld", "ddim integrates isotropic"),
        ("order --solver heun --t-end 0", "cannot end"),
        ("order --solver pndm_variable --option order=7", "order=7"),
        ("compare --solver ddim --process psld", "ddim integrates isotropic"),
    ],
)  # fmt: skip
def test_refusals(call, tmp_path, monkeypatch, arguments, says):
    """One line, nothing written, and before the work: no reference solution has been computed."""
    from diffnum.measure import reference

    monkeypatch.setattr(reference, "solve_ivp", lambda *_, **__: pytest.fail("the work had begun"))
    result = call(*arguments.replace(", ", ",").split())
    assert result.exit_code == 1
    assert result.stderr.startswith("diffnum: ") and result.stderr.count("\n") == 1 and says.strip(",") in result.stderr
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_to_are_refused_first(call, tmp_path):
    (tmp_path / "locked.png").write_text("")
    (tmp_path / "locked.png").chmod(0o444)
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.iterdir())
    for command in ("sample", "order --solver ddim", "compare"):
        for name, says in (("locked", "it is read-only; make it writable"), ("folder", "it is a folder; name a file")):
            result = call(*command.split(), "--out", f"{name}.png")
            assert (
                result.exit_code == 1
                and result.stderr == f"diffnum: --out {name}.png: {says}" + result.stderr.split(says)[1]
            )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["sample", "order --solver ddim", "compare", "quality", "train"])
def test_too_little_memory_is_one_line_with_options_that_there_are(call, monkeypatch, command):
    from diffnum import named
    from diffnum.images import train

    texts = "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes", "CUDA out of memory. Tried"
    for error in (MemoryError(), *map(RuntimeError, (*texts, "DefaultCPUAllocator: can't allocate memory"))):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(named, "grid", fail)
        monkeypatch.setattr(train, "train", fail)
        result = call(*command.split())
        assert result.exit_code == 1 and result.stderr.startswith("diffnum: out of memory; use a smaller -")
        known = {flag for p in typer.main.get_command(cli.app).commands[command.split()[0]].params for flag in p.opts}
        assert {word for word in result.stderr.split() if word.startswith("-")} <= known


def test_the_largest_sheet_is_one_that_pillow_opens():
    assert PIXELS == Image.MAX_IMAGE_PIXELS


def test_a_bar_ends_where_it_said_it_would(call, monkeypatch):
    seen = []

    class Watched(Meter):
        def __init__(self, *given, **more):
            super().__init__(*given, **more)
            seen.append(self)

    monkeypatch.setattr(inspect.getmodule(cli.order.order), "Meter", Watched)
    for words in ("--solver f_pndm", "--solver ancestral", "--solver gddim --process cld --option corrector=pec"):
        call("order", *words.split(), "--steps", "10,20")
        assert seen[-1].done() == seen[-1].total > 0, words


def test_a_sheet_out_of_range_is_no_success(call, tmp_path):
    from diffnum.solvers import registry

    def bad(problem, u, times):
        for state in registry["ddim"](problem, u, times):
            yield state * 30

    vars(bad).update(vars(registry["ddim"]))
    registry["bad"] = bad
    try:
        result = call("sample", "--solver", "bad", "--steps", 1, "-n", 2)
    finally:
        del registry["bad"]
    assert result.exit_code == 1 and (tmp_path / "samples.png").exists() and "-> samples.png" in result.stdout
    assert result.stderr.count("\n") == 1 and "% of the numbers are far out of range" in result.stderr


def test_option_values_have_the_type_of_their_default():
    def solver(problem, u, times, order=2, scale=1.0, flag=False, kind="a", free=None, noise=None):
        yield u

    given = ["order=3", "scale=2", "flag=true", "kind=1", "free=0.5"]
    assert solver_options(solver, given) == {"order": 3, "scale": 2.0, "flag": True, "kind": "1", "free": 0.5}
    with pytest.raises(ValueError, match="no option 'noise'"):
        solver_options(solver, ["noise=1"])


def test_compare_prints_what_the_library_measures(call, tmp_path):
    import diffnum as dn
    from diffnum.denoisers.targets import smooth
    from diffnum.measure.analysis import ladder, work_precision

    process = dn.VE()
    problem = dn.Problem(process, smooth())
    u = problem.prior((5, 4), dtype=torch.float64, seed=3)
    names = ("ddim", "edm_heun", ("pndm_variable", {"order": 2}))
    work = work_precision(problem, names, u, ladder(dn.grids.karras, process, t_end=0.01), (6, 12))

    solvers = "--solver ddim --solver edm_heun --solver pndm_variable:order=2 --nfe 12 --nfe 6 --nfe 12"
    rest = "--process ve --grid karras --t-end 0.01 -n 5 --seed 3 --out w.png"
    result = call("compare", *solvers.split(), *rest.split())
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    for cells in work.cells():
        assert " ".join(cells).split() in lines
    assert ["best", "within", "12:", *"{} with {}, error {:.1e}".format(*work.best(12)).split()] in lines
    assert picture(tmp_path / "w.png").shape[:2] == (600, 960)
    assert [file.name for file in tmp_path.iterdir()] == ["w.png"]


def test_compare_goes_on_when_a_solver_blows_up(call):
    from diffnum.solvers import registry

    def bad(problem, u, times):
        for state in registry["ddim"](problem, u, times):
            yield state * float("nan")

    vars(bad).update(vars(registry["ddim"]))
    registry["bad"] = bad
    try:
        result = call("compare", "--solver", "bad", "--solver", "ddim", "--nfe", "4")
        alone = call("compare", "--solver", "bad", "--nfe", "4")
    finally:
        del registry["bad"]
    assert result.exit_code == 0 and "lost to NaN or infinity: bad with 4" in result.stdout
    assert "best within 4: ddim" in result.stdout
    assert alone.exit_code == 0 and "best" not in alone.stdout


@pytest.mark.weights
def test_compare_on_the_network(call, tmp_path):
    result = call("compare", "--target", "cifar10", "-n", "2", "--nfe", "2", "--nfe", "4", "--solver", "ddim",
                  "--solver", "dpmpp_2m", "--solver", "rk4", "--images", "rows.png", "--scale", "1")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "reference: prk with 80 evaluations" in result.stdout
    assert "rows of rows.png: ddim; dpmpp_2m; rk4; reference" in result.stdout
    sheet = picture(tmp_path / "rows.png")
    assert sheet.shape == (2 + 4 * 34, 2 + 2 * 34, 3)
    rows = [sheet[2 + 34 * i : 34 + 34 * i].astype(float) for i in range(4)]
    assert abs(rows[0] - rows[3]).mean() > 1  # two evaluations are not the reference
    assert (
        call("sample", "-n", "2", "--solver", "ddim", "--steps", "2", "--scale", "1", "--out", "a.png").exit_code == 0
    )
    assert abs(picture(tmp_path / "a.png")[2:34].astype(float) - rows[0]).max() <= 1  # same seeds, same images


@pytest.mark.weights
def test_compare_tells_rows_that_are_no_images(call, tmp_path):
    from diffnum.solvers import registry

    def wild(problem, u, times):
        for state in registry["ddim"](problem, u, times):
            yield state * 9

    vars(wild).update(vars(registry["ddim"]))
    registry["wild"] = wild
    try:
        words = ("compare", "--target", "cifar10", "-n", "1", "--nfe", "4", "--images", "rows.png", "--solver", "wild")
        result, alone = call(*words, "--solver", "ddim"), call(*words)
    finally:
        del registry["wild"]
    assert (result.exit_code, alone.exit_code) == (0, 1) and "beyond -2 ... 2): the row of wild;" in result.stderr
    assert result.stderr.count("\n") == 1 and "-> rows.png" in result.stdout and (tmp_path / "rows.png").is_file()


TINY = ("sample", "-n", "3", "--steps", "2", "--solver", "ddim")


@pytest.mark.weights
def test_sample_writes_a_sheet_and_arrays(call, tmp_path):
    result = call(*TINY, "--npz", "--out", "a.png", "--columns", "3")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1 and "3 images, 2 network evaluations" in result.stdout
    assert not result.stderr
    sheet = picture(tmp_path / "a.png")
    assert sheet.shape == (68, 3 * 66 + 2, 3)
    with np.load(tmp_path / "a.npz") as made:
        assert made["images"].shape == (3, 32, 32, 3) and made["x"].dtype == np.float32
        assert (made["solver"], made["nfe"], made["seed"], made["process"]) == ("ddim", 2, 0, "vp")
        assert len(str(made["weights_sha256"])) == 64
        assert np.array_equal(sheet[2:66:2, 2:66:2], made["images"][0])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "a.png"]


@pytest.mark.weights
def test_sample_is_guided_to_labels_in_turn(call, tmp_path):
    """Image i has label i modulo their number, whatever the batch, and one column for each of several labels."""
    guided = (*TINY[:-4], "--steps", "2", "--solver", "ddim", "-n", "4", "--npz", "--guidance", "2")
    assert call(*guided, "--label", "ship,horse", "--label", "0", "--batch", "3", "--out", "a.png").exit_code == 0
    assert picture(tmp_path / "a.png").shape == (2 + 2 * 66, 2 + 3 * 66, 3)
    with np.load(tmp_path / "a.npz") as made:
        x, labels = made["x"], made["label"].tolist()
        assert (made["nfe"], made["guidance"], len(str(made["guide_sha256"]))) == (2, 2.0, 64)
    assert labels == ["ship", "horse", "airplane", "ship"]
    assert call(*guided, "--label", "ship", "--out", "b.png").exit_code == 0
    with np.load(tmp_path / "b.npz") as made:
        one = made["x"]
    assert np.abs(one - x).max(axis=(1, 2, 3)).round(3).tolist()[::3] == [0, 0] and np.abs(one - x)[1].max() > 0.01
    assert call(*TINY, "--out", "c.npz").exit_code == 0
    with np.load(tmp_path / "c.npz") as made:
        assert (made["guidance"], str(made["guide_sha256"]), made["label"].tolist()) == (0, "", [""] * 3)


@pytest.mark.weights
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--label", "cat"), "needs guidance"), (("--guidance", "2", "--label", "cta"), "did you mean cat"),
        (("--guidance", "-1"), "at least 0"), (("--guidance", "1", "--process", "blurring"), "blurring"),
    ],
)  # fmt: skip
def test_guidance_that_there_is_not_is_refused(call, tmp_path, arguments, says):
    for command in (TINY, ("quality", "--solver", "ddim", "--steps", "1", "-n", "4")):
        result = call(*command, *arguments)
        assert result.exit_code == 1 and says in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.weights
def test_images_depend_on_seed_and_index_alone(call, tmp_path):
    def draw(name, *more):
        assert call(*TINY, "--out", name, *more).exit_code == 0
        with np.load(tmp_path / name) as made:
            return made["x"]

    x = draw("a.npz")
    assert np.array_equal(x, draw("b.npz"))
    assert np.abs(x - draw("c.npz", "--batch", "2")).max() < 1e-4
    assert np.abs(x - draw("d.npz", "--seed", "1")).max() > 0.1


@pytest.mark.weights
@pytest.mark.parametrize("how", ["--process ve", "--process vp-cosine --dtype bfloat16", "--process vp-ddpm --denoise"])
def test_sample_on_every_process(call, tmp_path, how):
    result = call("sample", "-n", "1", "--steps", "3", "--solver", "ddim", "--out", "a.png", *how.split())
    assert result.exit_code == 0, result.output
    assert picture(tmp_path / "a.png").shape == (68, 68, 3)


@pytest.mark.parametrize(
    ("process", "solver", "steps", "options"),
    [
        ("cld", "gddim", 2, ["--option", "order=2"]),
        ("psld", "sscs", 4, []),
        ("blurring", "gddim", 16, ["--option", "corrector=pec"]),
        ("ve", "er_sde", 2, ["--option", "phi=x^1.5"]),
    ],
)
def test_sample_with_momentum_blur_and_noise(call, tmp_path, process, solver, steps, options):
    """Phase space and blurring give images too, the latter with its own network."""
    result = call("sample", "--process", process, "--solver", solver, "--grid", "quadratic", "--steps", steps, "-n", 2,
                  "--scale", 1, *options)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"{steps + ('corrector=pec' in options)} network evaluations" in result.output
    assert picture(tmp_path / "samples.png").std() > 5
    assert "integrates isotropic" in call("sample", "--process", "cld", "--steps", 2).output


def test_order_of_stochastic_and_phase_space_solvers(call):
    weak = call("order", "--solver", "ancestral", "--steps", "80,160,320")
    assert weak.exit_code == 0 and "order 1 is claimed" in weak.output, weak.output
    end = ("--grid", "quadratic", "--t-end", 0.05)
    phase = call("order", "--solver", "gddim", "--process", "cld", "--option", "order=2", "--steps", "80,160,320", *end)
    assert phase.exit_code == 0 and "order 2 is claimed" in phase.output, phase.output
    assert "acts on images" in call("order", "--solver", "gddim", "--process", "blurring").output
