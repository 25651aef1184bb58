"""The guide network: stored logits and gradients, precisions, ambient state of torch, and files that are not right."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as parse
from safetensors.torch import save

from diffnum.denoisers import guide as guides
from diffnum.denoisers.guide import GuideNet
from diffnum.denoisers.network import Weights, read
from diffnum.denoisers.unet import Config
from diffnum.errors import DiffnumError

GOLDEN = Path(__file__).parent / "golden" / "cifar10_guide.npz"
FOLDER = Path(guides.__file__).parent.parent / "weights"
HANDED_OVER = "6c40eb6095ca63f4094409f3fa2d6264fc869d4c265af578a1c58a66236c1106"
TINY = Config((32, 32), (False, True), 1, 1, 32, 8)


@pytest.fixture(scope="module")
def guide():
    return guides.load()


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return GuideNet(TINY)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as z:
        return {key: torch.from_numpy(z[key]) for key in z}


def logits_and_gradient(guide, x, sigma):
    """The logits, and the gradient of the log odds of realism, lse(l_0..l_9) - l_10."""
    x = x.clone().requires_grad_()
    l = guide.logits(x, sigma)
    (g,) = torch.autograd.grad((l[:, :10].logsumexp(1) - l[:, 10]).sum(), x)
    return l.detach(), g


def rounding(guide, x, sigma, unit):
    """What rounding may do to logits and gradient: the unit roundoff, times how much a relative error of the input
    grows on its way (measured), times 3000, since some thirty layers each sum up to 2,304 rounded products."""
    step, z = 1e-6, torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    before, after = (logits_and_gradient(guide, x * (1 + e * z), sigma) for e in (0, step))
    return [3000 * unit * float((a - b).abs().max()) / step for a, b in zip(after, before, strict=True)]


def test_golden_logits_and_gradients(guide, golden):
    """Computed independently, in float64 from the weights of that checksum."""
    if guide.sha256 != HANDED_OVER:
        assert guide.card["golden_weights_sha256"] == guide.sha256, "retrained weights bring pairs of their own"
    x, sigma = golden["x"], golden["sigma"]
    found = logits_and_gradient(guide, x, sigma)
    for value, right, bound in zip(found, (golden["logits"], golden["grad_realism"]),
                                   rounding(guide, x, sigma, 2.0**-53), strict=True):  # fmt: skip
        torch.testing.assert_close(value, right, rtol=0, atol=bound)


def test_precisions_and_forms_of_sigma(guide, golden):
    x, sigma = golden["x"][:3], golden["sigma"][:3]
    double = logits_and_gradient(guide, x, sigma)
    single = logits_and_gradient(guide, x.float(), sigma)
    for one, two, bound in zip(single, double, rounding(guide, x, sigma, 2.0**-24), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), two, rtol=0, atol=bound)
    assert guide.logits(x.bfloat16(), sigma).dtype == torch.bfloat16
    bound = rounding(guide, x, sigma, 2.0**-53)[0]
    for i in range(3):
        for level in (float(sigma[i]), sigma[i], sigma[i : i + 1]):
            torch.testing.assert_close(guide.logits(x[i : i + 1], level), double[0][i : i + 1], rtol=0, atol=bound)


def test_ambient_state_of_torch_does_not_matter(guide, golden):
    x, sigma = golden["x"][:2].float(), golden["sigma"][:2]
    right = logits_and_gradient(guide, x, sigma)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(guide.logits(x, sigma), right[0])
    try:
        torch.set_default_dtype(torch.float64)
        with torch.inference_mode():
            other = guides.load()
            assert torch.equal(other.logits(x, sigma), right[0])  # fills the cache
            with torch.inference_mode(False):
                assert torch.equal(logits_and_gradient(other, x.clone(), sigma)[1], right[1])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(logits_and_gradient(other, x, sigma)[1], right[1])


def test_card_names_the_denoiser_that_it_knows(guide):
    assert isinstance(guide, Weights) and guide.shape == (3, 32, 32)
    assert guide.sha256 == guide.card["sha256"]
    known = guide.card["denoiser"]
    assert guide.denoiser == known["sha256"] == read(known["name"])[1]
    assert (FOLDER / "cifar10-guide.safetensors").stat().st_size <= 16_000_000


def test_wrong_input_is_refused(guide):
    x = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"\(batch, 3, 32, 32\)"):
        guide.logits(x[..., :16], 1.0)
    with pytest.raises(TypeError, match="floating"):
        guide.logits(x.to(torch.uint8), 1.0)
    for sigma in (0.0, -1.0, float("nan"), torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(ValueError, match="sigma"):
            guide.logits(x, sigma)


def test_a_file_keeps_everything(tiny):
    blob = guides.to_bytes(tiny, "ab" * 32)
    again = guides.from_bytes(blob)
    assert again.denoiser == "ab" * 32 and again.range == guides.RANGE and again.config == TINY
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    halves = GuideNet(TINY)
    halves.load_state_dict({k: v.half().float() for k, v in tiny.state_dict().items()})
    torch.testing.assert_close(again.logits(x, 1.0), guides.Guide(halves).logits(x, 1.0), rtol=0, atol=0)


def broken_files(tiny):
    """(what is wrong, bytes) of files that parse, or do not."""
    blob = guides.to_bytes(tiny, "ab" * 32)
    weights = parse(blob)
    about = {"kind": "guide", "denoiser_sha256": "ab", "sigma": [0.05, 40], "heads": 4}

    def file(weights=weights, **change):
        return save(weights, {"diffnum": json.dumps({**about, **change})})

    yield "empty", b""
    yield "truncated", blob[:-100]
    yield "no metadata", save(weights)
    yield "metadata no object", save(weights, {"diffnum": "[1]"})
    yield "another kind", file(kind="features")
    yield "no range", file(sigma=[40, 1])
    yield "no denoiser", file(denoiser_sha256=None)
    yield "heads 0", file(heads=0)
    yield "heads 3", file(heads=3)
    yield "missing", file({k: v for k, v in weights.items() if k != "mid.0.conv0.bias"})
    yield "renamed", file({k.replace("head", "tail"): v for k, v in weights.items()})
    yield "misshapen", file({**weights, "head.weight": weights["head.weight"][:10].contiguous()})
    yield "NaN", file({**weights, "head.bias": weights["head.bias"] * float("nan")})
    yield "enormous", file({**weights, "mid.1000000000.norm0.bias": torch.zeros(1)})
    yield "one level", file({k: v for k, v in weights.items() if not k.startswith("down.1")})


def test_damaged_files_are_one_line(tiny):
    for what, blob in broken_files(tiny):
        with pytest.raises(DiffnumError, match="not a guide") as found:
            guides.from_bytes(blob, "the file")
            pytest.fail(what)
        assert "\n" not in str(found.value)


def test_an_altered_file_is_refused(tmp_path):
    for suffix in (".safetensors", ".json"):
        shutil.copy(FOLDER / f"cifar10-guide{suffix}", tmp_path)
    path = tmp_path / "cifar10-guide.safetensors"
    blob = path.read_bytes()
    path.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(DiffnumError, match="truncated or altered"):
        guides.load(path)
    with pytest.raises(DiffnumError, match="not a guide"):
        guides.load(FOLDER / "cifar10-features.safetensors")
    with pytest.raises(KeyError, match="cifar10-guide"):
        guides.load("none")
