"""The exploring mode of labs: remarks instead of stops, one sentence instead of a traceback, and no gift to graders."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

import diffnum as dn
from diffnum import checks, exploring
from diffnum.errors import DiffnumError


@pytest.fixture
def shell(monkeypatch):
    """An IPython in this process; `run(cell)` runs a cell of a lab in the exploring mode."""
    shell = InteractiveShell.instance(colors="nocolor")
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    shell.run_cell("import torch\nimport diffnum as dn\nfrom diffnum import checks\ndn.explore()").raise_error()
    made = "problem = dn.Problem(dn.VP(), dn.Gaussian([0.5], [0.2]))\nu = problem.prior((4, 1), dtype=torch.float64)"
    shell.run_cell(made).raise_error()
    yield shell
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("a, b = 0.31, [2, 3]\nassert a < 0.25, 'a is small'", "expected: a is small. Measured: a = 0.31"),
        ("a = 1\nassert a == 1 and a > 2 and a > 3, 'both'", "expected: both. Measured: a = 1"),
        (
            "e = {1: 0.5, 2: 0.125}\nassert all(e[n] < 0.2 for n in (2, 1)), 'all small'",
            "expected: all small. Measured: n = 1, e[n] = 0.5",
        ),
        (
            "def f(x):\n    assert x > torch.tensor(1.0), f'{x} is large'\nf(0.5)",
            "expected: 0.5 is large. Measured: x = 0.5",
        ),
        ("assert table['heun'] < 1, 'a name that is gone'", "nothing that could be compared (NameError"),
        ("assert 1 > 2", "expected: 1 > 2."),
        ("checks.assert_close(torch.ones(2), torch.zeros(2), 0.1, 'ends')", "ends differ by 1, more than 0.1"),
        ("checks.assert_catches(lambda: None)[:5]", "the check passed although the solver is broken"),
    ],
)
def test_assertions_become_remarks_and_the_cell_goes_on(shell, capsys, cell, said):
    result = shell.run_cell(cell + "\nprint('went on')")
    out = capsys.readouterr().out
    assert result.success and "went on" in out
    assert f"REMARK  {said}" in out or (out.startswith("REMARK") and said in out)


def test_an_assertion_that_holds_says_nothing(shell, capsys):
    cell = "assert 1 < 2, 'order'\nchecks.assert_close(torch.ones(1), torch.ones(1))"
    assert shell.run_cell(cell).result == 0
    assert "REMARK" not in capsys.readouterr().out


def test_what_a_failed_check_measured_can_be_used(shell, capsys):
    """The next lines of a lab go on with it."""
    assert shell.run_cell(
        "x = checks.measure(problem, 'ddim', u, lambda n: dn.grids.uniform(dn.VP(), n), (1, 2))"
    ).success
    assert shell.user_ns["x"].steps == (1, 2) and capsys.readouterr().out.count("REMARK") == 1


def test_one_number_of_steps_is_told(shell, capsys):
    shell.run_cell("checks.measure(problem, 'ddim', u, lambda n: dn.grids.uniform(dn.VP(), n), (4,))")
    assert "one number of steps, 4, shows no slope" in capsys.readouterr().out


def test_an_expected_failure_is_still_one(shell, capsys):
    """A cell that looks for failures, as the lab on planted bugs does, still finds them."""
    cell = (
        "try:\n    checks.assert_close(torch.ones(1), torch.zeros(1), 0.1)\nexcept AssertionError:\n    print('found')"
    )
    assert shell.run_cell(cell).success
    assert capsys.readouterr().out == "found\n"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            "x = 1\nrow = {'ddim': 1}['heun']",
            "STOPPED in line 2 of this cell, `row = {'ddim': 1}['heun']`: KeyError: 'heun'",
        ),
        ("dn.VP(beta_min=-1)", "STOPPED in line 1 of this cell, `dn.VP(beta_min=-1)`: ValueError"),
        ("def f():\n    return missing\n\nf()", "line 2 of this cell, `return missing`: NameError"),
        ("dn.solve(problem, 'Heun', u, [1, 0.5])", "did you mean heun, edm_heun, edm_churn? (%tb"),
        ("dn.solve(problem, 'S-PNDM', u, [1, 0.5])", "did you mean s_pndm, "),
        ("dn.solve(problem, 'heun', u, [1, 0.5], order=2)", "heun has no option 'order'; it has none. (%tb"),
        ("dn.VP(beta=3)", "unexpected keyword argument 'beta'. `help(...)` of the function lists what it takes. (%tb"),
        ("dn.grids.nope", "has no attribute 'nope'. `dir(...)` of what stands before the dot"),
        ("torch.ones(2) + torch.ones(3)", "dimension 0. Two things that met here differ in shape"),
        ("1 / 0", "division by zero. Undo the last change"),
        (
            "checks.assert_exact(dn.CLD(), 'ddim', dn.grids.uniform(dn.CLD(), 4))",
            "CLD is phase_space (gddim integrates all of them). (%tb",
        ),
    ],
)
def test_an_error_is_one_sentence(shell, capsys, cell, said):
    assert not shell.run_cell(cell).success
    out = capsys.readouterr().out
    assert said in out and "Traceback" not in out and len(out.strip().splitlines()) == 1
    assert "%tb" in out


def test_the_mode_ends(shell):
    shell.run_cell("dn.explore(False)")
    with pytest.raises(AssertionError, match="order"):
        shell.run_cell("assert 2 < 1, 'order'").raise_error()


def test_grading_is_as_strict_as_ever(shell):
    cell = "checks.points(2, lambda: checks.assert_close(torch.ones(1), torch.zeros(1)), lambda: None)"
    assert shell.run_cell(cell).result == 1


def test_outside_a_notebook_it_refuses(monkeypatch):
    monkeypatch.setattr(exploring, "_shell", lambda: None)
    with pytest.raises(DiffnumError, match="notebook"):
        dn.explore()
    monkeypatch.setenv(exploring.VARIABLE, "1")
    assert not exploring.asked_for()
    assert callable(checks.assert_order)
