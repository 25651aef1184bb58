"""Golden values: what they hold, and ports that agree, differ, ask too much or break."""

import json
import sys
from pathlib import Path

import pytest
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.denoisers.targets import smooth
from diffnum.interop import golden
from diffnum.solvers import registry

# DDIM in plain Python, the way a port would be written
PORT = """
import json, sys
def ask(what):
    print(json.dumps(what), flush=True)
    return json.loads(sys.stdin.readline())["prediction"]
given = json.loads(sys.stdin.readline())
x, states, a, s = given["start"], [], given["alpha"], given["sigma"]
for i in range(len(a) - 1):
    scaled = [[v / a[i] for v in row] for row in x]
    e = ask({"ask": "noise", "level": s[i] / a[i], "x": scaled})
    c = FACTOR * (s[i + 1] - a[i + 1] / a[i] * s[i])
    x = [[a[i + 1] / a[i] * v + c * w for v, w in zip(r, f)] for r, f in zip(x, e)]
    states.append(x)
print(json.dumps({"states": states}), flush=True)
"""


def port(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "port.py"
    path.write_text(text)
    return [sys.executable, str(path)]


@pytest.mark.parametrize("name", ["ddim", "f_pndm", "dpmpp_2m", "er_sde", "unipc", "heun", "ancestral"])
def test_coefficients_rebuild_every_state(name):
    made = json.loads(json.dumps(golden.values(name, {})))
    start, states = torch.tensor(made["start"], dtype=torch.float64), torch.tensor(made["states"], dtype=torch.float64)
    predictions = torch.tensor([e["prediction"] for e in made["evaluations"]], dtype=torch.float64)
    draws = torch.tensor(made["noise"], dtype=torch.float64).reshape(-1, *start.shape)
    for state, row in zip(states, made["coefficients"], strict=True):
        rebuilt = row["start"] * start
        for factors, parts in ((row["predictions"], predictions), (row["noise"], draws)):
            rebuilt = rebuilt + torch.einsum("k,kbd->bd", torch.tensor(factors, dtype=torch.float64), parts)
        checks.assert_close(rebuilt, state, 1e-11)
    assert len(made["noise"]) == (6 if registry[name].draws else 0)
    assert set(made) == {key.strip() for keys in golden.SCHEMA for key in keys.split(",")}


def test_values_are_those_of_a_run():
    made = golden.values("pndm_variable", {"order": 3}, "ve", "karras")
    process = dn.VE()
    times = grids.karras(process, 6)
    u = torch.tensor(made["start"], dtype=torch.float64)
    assert made["times"] == times.tolist() and made["alpha"] == [1.0] * 7
    run = dn.solve(dn.Problem(process, smooth()), "pndm_variable", u, times, order=3)
    assert made["states"][-1] == run.u.tolist() and len(made["evaluations"]) == run.nfe
    with pytest.raises(dn.DiffnumError, match="VP and VE"):
        golden.values("gddim", {}, "cld")


def test_a_right_port_agrees_and_a_wrong_one_is_told_where(tmp_path):
    made = golden.values("ddim", {})
    assert golden.check(made, port(tmp_path, PORT.replace("FACTOR", "1"))) == []
    found = golden.check(made, port(tmp_path, PORT.replace("FACTOR", "1.001")))
    assert found[0].startswith("evaluation 2, x: differs by") and "state after step 6" in found[-1]
    assert golden.check(made, port(tmp_path, PORT.replace("FACTOR", "1.001")), tolerance=0.5) == []


@pytest.mark.parametrize(("text", "word"), [
    ("print('hello')", "no JSON object"),
    ("pass", "ended before"),
    ("import json\nwhile True:\n    print(json.dumps({'ask': 'data'}), flush=True)\n    input()", "asks for data"),
    ("import json\ninput()\nfor i in range(9):\n    print(json.dumps({'ask': 'noise'}), flush=True)\n    input()",
     "more often than 6"),
])  # fmt: skip
def test_ports_that_break(tmp_path, text, word):
    with pytest.raises(dn.DiffnumError, match=word):
        golden.check(golden.values("ddim", {}), port(tmp_path, text))


def test_ports_that_are_not_there_or_stop_early(tmp_path):
    made = golden.values("ddim", {})
    with pytest.raises(dn.DiffnumError, match="does not start"):
        golden.check(made, "no_such_program --flag")
    short = 'import json\ninput()\nprint(json.dumps({"states": [[[0, 0, 0, 0], [0, 0, 0, 0]]]}), flush=True)'
    found = golden.check(made, port(tmp_path, short))
    assert "1 states for 6 steps" in found and "6 evaluations fewer than 6" in found


def test_the_command(tmp_path, capsys):
    from diffnum import cli

    app = __import__("typer").main.get_command(cli.app)
    path = tmp_path / "ddim.json"
    app.main(["golden", "--solver", "ddim", "--out", str(path), "--steps", "4"], standalone_mode=False)
    assert "4 evaluations, 4 states" in capsys.readouterr().out
    words = " ".join(f'"{word}"' for word in port(tmp_path, PORT.replace("FACTOR", "1")))
    assert app.main(["golden", "--check", str(path), "--command", words], standalone_mode=False) in (0, None)
    assert "agree" in capsys.readouterr().out
    for given, word in (([], "either"), (["--check", str(path)], "--command"), (["--solver", "ddim"], "--out"),
                        (["--check", __file__, "--command", "x"], "not a golden file")):  # fmt: skip
        assert app.main(["golden", *given], standalone_mode=False) == 1
        assert word in capsys.readouterr().err
