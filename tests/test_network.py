"""The shipped network: stored pairs, precisions, the blend into the Wiener denoiser, and files that are not right."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffnum.dct import dct2, idct2
from diffnum.denoisers import network as nets
from diffnum.denoisers.guided import load as load_guided
from diffnum.denoisers.network import BlurringNetwork, Config, Network, UNet, Wiener, load
from diffnum.errors import DiffnumError

GOLDEN = Path(__file__).parent / "golden" / "cifar10_check.npz"
WEIGHTS = Path(nets.__file__).parent.parent / "weights"


@pytest.fixture(scope="module")
def network():
    return load("cifar10")


@pytest.fixture(scope="module")
def tiny():
    """A network small enough to perturb: one level of attention, real statistics of a made-up spectrum."""
    torch.manual_seed(0)
    config = Config((16, 32), (False, True), 1, 1, 32, 8)
    gain = torch.linspace(3, 0.01, 32, dtype=torch.float64)
    cov = (gain[:, None] * gain)[..., None, None] * (torch.eye(3) + 0.5)
    return Network(UNet(config), Wiener(torch.full((3, 32, 32), 0.1), cov))


def noisy(sigma, rows=2, dtype=torch.float64, seed=0):
    return sigma * torch.randn(rows, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_golden_pairs(network):
    """Pairs of the shipped weights in float64, made with this code.

    The pairs of their predecessor were computed independently, and the same architecture code met them to 1e-12.
    """
    with np.load(GOLDEN) as z:
        x, sigma, D = (torch.from_numpy(z[k]) for k in ("x", "sigma", "D"))
    assert network.card["golden_weights_sha256"] == network.sha256, "retrained weights bring pairs of their own"
    torch.testing.assert_close(network(x, sigma), D, rtol=0, atol=1e-12)


def test_precisions(network):
    x = noisy(0.5)
    double = network(x, 0.5)
    single = network(x.float(), 0.5)
    half = network(x.bfloat16(), 0.5)
    assert (double.dtype, single.dtype, half.dtype) == (torch.float64, torch.float32, torch.bfloat16)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)
    torch.testing.assert_close(half, network(x.bfloat16().float(), 0.5).bfloat16(), rtol=0, atol=0)
    assert not double.requires_grad and len(network._nets) <= 2  # one copy per device and dtype


@pytest.mark.parametrize("sigma", [1e-4, 0.002, 0.5, 80.0, 300.0, 1e4])
def test_eps_is_x_minus_D_over_sigma(tiny, sigma):
    x = noisy(max(sigma, 0.5))
    difference = (x - tiny(x, sigma)) / sigma
    torch.testing.assert_close(tiny.eps(x, sigma), difference, rtol=1e-9, atol=1e-9 + 1e-14 / sigma)


def test_eps_keeps_its_digits_at_small_sigma(tiny):
    x = noisy(0.5)
    exact = tiny.eps(x, 1e-3)
    assert (tiny.eps(x.float(), 1e-3) - exact).abs().max() < 1e-5
    assert ((x.float() - tiny(x.float(), 1e-3)) / 1e-3 - exact).abs().max() > 2e-5  # what the subtraction loses


def test_forms_of_sigma_agree(tiny):
    x, sigma = noisy(3.0, rows=4), torch.tensor([0.01, 3.0, 400.0, 1000.0], dtype=torch.float64)
    together = tiny(x, sigma)
    for i in range(4):
        row = tiny(x[i : i + 1], float(sigma[i]))
        torch.testing.assert_close(together[i : i + 1], row, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(row, tiny(x[i : i + 1], sigma[i]), rtol=0, atol=0)


def test_wiener_above_the_blend(tiny):
    """From 520 on D = m + C (C + sigma^2)^-1 (x - m), here written out per frequency with a solve."""
    x, sigma = noisy(600.0), 600.0
    mean, values, vectors = tiny.wiener.parts
    cov = torch.einsum("ijcl,lij,ijdl->ijcd", vectors, values, vectors)
    y = dct2(x - mean).permute(0, 2, 3, 1)
    gain = cov @ torch.linalg.inv(cov + sigma**2 * torch.eye(3, dtype=torch.float64))
    expected = mean + idct2(torch.einsum("ijcd,bijd->bcij", gain, y))
    torch.testing.assert_close(tiny(x, sigma), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(tiny.eps(x.float(), 1e30).double(), x / 1e30, rtol=1e-3, atol=1e-30)


def test_blend_is_smooth(tiny):
    """First and second differences in ln sigma stay bounded across 260 and 520 (smootherstep has two derivatives)."""
    x = noisy(1.0)
    levels = torch.linspace(np.log(200), np.log(700), 301, dtype=torch.float64).exp()
    values = torch.stack([tiny(x[:1] * s, float(s))[0, 0, :2, :2] for s in levels])
    first = values.diff(dim=0)
    second = first.diff(dim=0)
    assert second.abs().max() < 0.15 * first.abs().max()
    ends = tiny(x * 260, 260.0), tiny(x * 260 * (1 + 1e-9), 260 * (1 + 1e-9))
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


def test_low_end(tiny):
    x = noisy(0.5)
    torch.testing.assert_close(tiny(x, 0.0), x, rtol=0, atol=0)
    assert torch.isfinite(tiny.eps(x, 0.0)).all()


def test_wrong_input_is_refused(tiny):
    with pytest.raises(ValueError, match=r"\(batch, 3, 32, 32\)"):
        tiny(torch.zeros(2, 3, 16, 16), 1.0)
    with pytest.raises(TypeError, match="floating"):
        tiny(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 1.0)
    with pytest.raises(ValueError, match="sigma"):
        tiny(noisy(1.0), -1.0)
    with pytest.raises(ValueError, match="sigma"):
        tiny(noisy(1.0), torch.ones(3))


# ------------------------------------------------------------------------------------------------------- blurring


@pytest.fixture(scope="module")
def blurring():
    torch.manual_seed(1)
    return BlurringNetwork(UNet(Config((16, 32), (False, True), 1, 1, 32, 8)), torch.rand(32, 32) + 0.01)


def levels(t):
    return np.tan(np.pi / 2 * (t + 0.004) / 1.008) / nets.blur_damping(t)


@pytest.mark.parametrize("t", [1e-5, 0.1, 0.5, 0.99])
def test_blurring_posterior_and_eps(blurring, t):
    sigma = levels(t)
    y = sigma * noisy(1.0)
    x0, e = blurring.posterior(y, sigma), blurring.posterior_eps(y, sigma)
    torch.testing.assert_close((y - x0) / sigma, e, rtol=1e-8, atol=1e-8)
    single = blurring.posterior_eps(y.float(), sigma)
    torch.testing.assert_close(single.double(), e, rtol=1e-4, atol=1e-4)


def test_blurring_time_from_level():
    for t in (1e-5, 0.3, 0.99):
        assert abs(nets.blurring_time(levels(t)[0, 0]) - t) < 1e-12


def test_blurring_refuses_what_it_does_not_know(blurring):
    with pytest.raises(DiffnumError, match="blurring"):
        blurring(noisy(1.0), 1.0)
    with pytest.raises(ValueError, match="path"):
        blurring.posterior(noisy(1.0), torch.ones(32, 32))


# ---------------------------------------------------------------------------------------------------------- files


def test_every_shipped_network_loads_and_is_small():
    for name in nets.available():
        network = load(name)
        assert network.sha256 == network.card["sha256"] and network.shape == (3, 32, 32)
        assert (WEIGHTS / f"{name}.safetensors").stat().st_size <= 16_000_000


@pytest.mark.parametrize("card", sorted(WEIGHTS.glob("*.md")), ids=lambda card: card.stem)
def test_every_card_is_of_the_file_beside_it(card):
    """Weights were exchanged once, and the text went on about those before."""
    assert hashlib.sha256(card.with_suffix(".safetensors").read_bytes()).hexdigest() in card.read_text("utf-8")


def test_every_file_of_weights_has_a_card():
    files, cards = ({file.stem for file in WEIGHTS.glob(f"*.{kind}")} for kind in ("safetensors", "md"))
    assert files - cards == {"cifar10-reference"}, "described by the card of the features"


def test_unknown_name_lists_the_known():
    with pytest.raises(KeyError, match="cifar10"):
        load("imagenet")


@pytest.fixture
def copy(tmp_path):
    for suffix in (".safetensors", ".json"):
        shutil.copy(WEIGHTS / f"cifar10{suffix}", tmp_path)
    return tmp_path / "cifar10.safetensors"


def test_altered_truncated_and_missing_files(copy):
    blob = copy.read_bytes()
    assert load(copy).sha256 == load("cifar10").sha256
    copy.write_bytes(blob[:-1000])
    with pytest.raises(DiffnumError, match="truncated or altered"):
        load(copy)
    copy.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(DiffnumError, match="truncated or altered"):
        load(copy)
    copy.with_suffix(".json").unlink()  # without a checksum the format still tells
    copy.write_bytes(blob[:-1000])
    with pytest.raises(DiffnumError, match="not a diffnum network"):
        load(copy)
    copy.unlink()
    with pytest.raises(DiffnumError, match="cannot read"):
        load(copy)


def test_only_safetensors_are_read(tmp_path):
    with pytest.raises(DiffnumError, match="safetensors"):
        load(tmp_path / "weights.pt")


def test_configuration_survives_the_file(tiny, tmp_path):
    net = UNet(tiny.config)
    path = tmp_path / "own.safetensors"
    path.write_bytes(nets.to_bytes(net, {}))
    again = load(path)
    assert again.config == tiny.config
    assert path.read_bytes() == nets.to_bytes(net, {})  # the same bytes every time, or checksums would mean little
    x = noisy(0.5)
    reference = Network(net.half())
    torch.testing.assert_close(again(x, 0.5), reference(x, 0.5), rtol=0, atol=0)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu(network):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    x = noisy(1.0, rows=4)
    torch.testing.assert_close(network(x.cuda(), 1.0).cpu(), network(x, 1.0), rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------- other ways to run it


TINY = Config((16,), (True,), 1, 1, 16, 4, 2)


def a_small_network():
    torch.manual_seed(0)
    return Network(UNet(TINY))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_compiled_network_differs_by_rounding_alone(device, monkeypatch):
    """F is a sum of some thousand products, of size 1: fused or not, it is the same to a few hundred roundings.

    On a CPU the network is traced and not translated, which would take a minute of g++.
    """
    if device == "cpu":
        compiler = torch.compile
        monkeypatch.setattr(torch, "compile", lambda net, mode, dynamic: compiler(net, backend="aot_eager"))
    plain = a_small_network()
    compiled = plain.compiled()
    assert plain.compiled is not compiled and not plain.graph
    for dtype in (torch.float32, torch.float64)[: 1 if device == "cpu" else 2]:
        x = torch.randn(2, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(1)).to(device)
        tolerance = 500 * torch.finfo(dtype).eps
        for sigma in (0.1, 1.0):
            a, b = plain.eps(x, sigma), compiled.eps(x, sigma)
            assert torch.allclose(a, b, rtol=0, atol=tolerance * float(a.abs().max())), (dtype, sigma)
    kept = compiled.eps(x, 0.1)
    compiled.eps(x, 1.0)
    assert torch.equal(kept, compiled.eps(x, 0.1)), "a graph that is replayed leaves earlier results alone"


def test_a_network_that_cannot_be_compiled_says_so(monkeypatch):
    def broken(net, **_):
        def run(*_):
            raise RuntimeError("Failed to find C++ compiler")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(DiffnumError, match=r"cannot be compiled here \(Failed to find C\+\+ compiler\); .* leave"):
        a_small_network().compiled().eps(torch.zeros(1, 3, 32, 32), 1.0)


def test_ways_to_run_are_options_of_load():
    denoiser = load_guided("cifar10", half=True, compile=True)
    assert denoiser.half and denoiser.graph
    guided = load_guided("cifar10", guidance=2.0, half=True, compile=True)
    assert guided.denoiser.half and guided.denoiser.graph and guided.guide.half and not guided.guide.graph
