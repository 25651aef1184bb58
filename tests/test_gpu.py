"""The prepared command for a lent GPU, as far as a machine without one can try it."""

import json

import gpu
import pytest
import torch

import diffnum as dn
from diffnum.denoisers.network import Network
from diffnum.denoisers.unet import Config, UNet


@pytest.fixture
def small(monkeypatch):
    """A small network in place of the shipped one, and one way to run it."""

    def load(name, half=False, compile=False):
        torch.manual_seed(0)
        network = Network(UNet(Config((16,), (True,), 1, 1, 16, 4, 2)))
        return network.in_bfloat16() if half else network

    monkeypatch.setattr(dn, "load", load, raising=False)
    monkeypatch.setattr(gpu, "WAYS", {name: gpu.WAYS[name] for name in ("float32", "bfloat16")})
    monkeypatch.setattr(gpu, "BATCHES", (2,))


def test_the_table_is_written_row_by_row(small, tmp_path):
    assert gpu.main(["--device", "cpu", "--no-tests", "--out", str(tmp_path / "new")]) == 0
    found = json.loads((tmp_path / "new" / "throughput.json").read_text())
    assert [row["way"] for row in found["rows"]] == ["float32", "bfloat16"] and found["tests"] == 0
    for row in found["rows"]:
        assert row["evaluations_per_second"] > 0 and all(row[name] > 0 for name in gpu.SOLVERS)


def test_it_stops_when_its_time_is_up_and_says_what_is_missing(small, tmp_path, capsys):
    assert gpu.main(["--device", "cpu", "--no-tests", "--seconds", "0", "--out", str(tmp_path)]) == 0
    assert "no time was left for 2 of 2 rows" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 1 and "there is no GPU here" in capsys.readouterr().err
