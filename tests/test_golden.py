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
    ("import os\nos.close(0)\nos.close(1)", "ended before"),
    ("import sys\nsys.stdout.buffer.write(bytes([255, 10]))", "no JSON object"),
    ("print('{\"states\": 3}')", "no list"),
    ("import json\nwhile True:\n    print(json.dumps({'ask': 'data'}), flush=True)\n    input()", "asks for data"),
    ("import json\ninput()\nfor i in range(9):\n    print(json.dumps({'ask': 'noise'}), flush=True)\n    input()",
     "more often than 6"),
])  # fmt: skip
def test_ports_that_break(tmp_path, text, word):
    with pytest.raises(dn.DiffnumError, match=word):
        golden.check(golden.values("ddim", {}), port(tmp_path, text))


DAMAGE = {
    "no object": lambda g: [],
    "no states": lambda g: {k: v for k, v in g.items() if k != "states"},
    "a state short": lambda g: {**g, "states": g["states"][:-1]},
    "text for states": lambda g: {**g, "states": "x"},
    "a NaN": lambda g: {**g, "times": [*g["times"][:-1], float("nan")]},
    "no evaluations": lambda g: {**g, "evaluations": None},
    "a number for an evaluation": lambda g: {**g, "evaluations": [1]},
    "an evaluation without a level": lambda g: {**g, "evaluations": [{**g["evaluations"][0], "level": None}]},
    "a misshapen prediction": lambda g: {**g, "evaluations": [{**g["evaluations"][0], "prediction": [1]}]},
}


@pytest.mark.parametrize("damage", [*DAMAGE, "nested", "bytes", "empty"])
def test_a_damaged_golden_file_is_told_before_the_port_starts(damage, tmp_path):
    path, raw = tmp_path / "golden.json", {"nested": b"[" * 100_000, "bytes": b"\xff\xfe", "empty": b""}
    made = DAMAGE.get(damage, lambda g: g)(golden.values("ddim", {}, steps=2))
    path.write_bytes(raw.get(damage, json.dumps(made).encode()))
    with pytest.raises(ValueError, match=r"golden.json: not a golden file \(.+\); write one"):
        golden.read(path)
    if damage in DAMAGE:
        with pytest.raises(ValueError):
            golden.check(made, "no_such_program")


@pytest.mark.parametrize("command", ["", " ", '"open', []])
def test_what_is_no_command_line(command):
    with pytest.raises(ValueError, match="no command line"):
        golden.check(golden.values("ddim", {}, steps=1), command)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf"), "1", True, None])
def test_no_tolerance_lets_everything_or_nothing_through(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        golden.check(golden.values("ddim", {}, steps=1), "no_such_program", tolerance)


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
