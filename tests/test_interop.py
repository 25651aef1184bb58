"""Networks of other libraries under our solvers, our solvers in their loops."""

import contextlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import diffnum as dn
from diffnum import checks, grids
from diffnum.denoisers.targets import smooth, starts
from diffnum.interop import golden
from diffnum.interop.networks import betas_of
from diffnum.interop.questions import Questions
from diffnum.kept import kept
from diffnum.measure.analysis import evaluations

CONFIG = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def scheduler(kind="epsilon", **config):
    return SimpleNamespace(config={**CONFIG, "prediction_type": kind, **config})


class Exact:
    """A network of diffusers' shape that knows the truth: exact predictions of the smooth mixture at an index."""

    def __init__(self, process, kind, variance=False):
        self.problem, self.kind, self.variance, self.calls, self.seen = (
            dn.Problem(process, smooth()),
            kind,
            variance,
            0,
            [],
        )

    def __call__(self, u, k, shift=0.0):
        self.calls += 1
        t = ((k.double() + 1) / 1000)[0].item()
        self.seen.append(t)
        alpha, sigma = self.problem.process.levels(t)
        eps, x0 = self.problem.eps(u, t), self.problem.x0(u, t)
        out = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}[self.kind] + shift
        return SimpleNamespace(sample=torch.cat([out, out], 1) if self.variance else out)


PROCESS = dn.VP.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@pytest.mark.parametrize("variance", [False, True], ids=["plain", "learned variance"])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_predictions_of_every_type_give_one_path(kind, variance):
    net = Exact(PROCESS, kind, variance)
    denoiser = dn.from_diffusers(net, scheduler(kind))
    assert denoiser.process == PROCESS or denoiser.process.levels(0.3) == PROCESS.levels(0.3)
    u, times = starts(PROCESS), grids.from_table(PROCESS, 10, t_end=0.001)
    ours = dn.solve(dn.Problem(PROCESS, smooth()), "pndm_variable", u, times, order=2).u
    theirs = dn.solve(dn.Problem(denoiser.process, denoiser), "pndm_variable", u, times, order=2).u
    checks.assert_close(theirs, ours, 1e-6 if variance or kind else None)
    assert net.calls == 13


def test_indices_are_exact_and_times_below_the_first_are_the_first():
    net = Exact(PROCESS, "epsilon")
    denoiser = dn.from_diffusers(net, scheduler())
    u = starts(PROCESS)
    dn.Problem(denoiser.process, denoiser).eps(u, 0.5)
    dn.Problem(denoiser.process, denoiser).eps(u, 1e-5)
    assert net.seen == [0.5, 0.001]


@pytest.mark.parametrize("config", [
    {"beta_schedule": "linear"}, {"beta_schedule": "scaled_linear"}, {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.1, 0.2, 0.3]},
])  # fmt: skip
def test_tables(config):
    betas = betas_of({**CONFIG, **config})
    assert betas.dtype == torch.float64 and ((betas > 0) & (betas < 1)).all()
    if "trained_betas" not in config:
        diffusers = pytest.importorskip("diffusers")
        theirs = diffusers.DDIMScheduler(**{**CONFIG, **config}).betas.double()
        checks.assert_close(betas, theirs, 1e-6)


def test_refusals_of_networks():
    net = Exact(PROCESS, "epsilon")
    for given, word in (
        ({"scheduler": scheduler("flow_prediction")}, "flow_prediction"),
        ({"scheduler": scheduler(rescale_betas_zero_snr=True)}, "no data are left"),
        ({"scheduler": scheduler(beta_schedule="sigmoid")}, "sigmoid"),
        ({"scheduler": scheduler(), "guidance": 2.0}, "null"),
        ({"scheduler": scheduler(), "null": {}}, "without guidance"),
        ({"scheduler": scheduler(), "condition": 3}, "keywords"),
    ):
        with pytest.raises((ValueError, TypeError, dn.DiffnumError), match=word):
            dn.from_diffusers(net, **given)
    with pytest.raises(TypeError, match="not a network"):
        dn.from_diffusers(Exact, scheduler())


def test_classifier_free_guidance_moves_past_and_counts_two():
    net = Exact(PROCESS, "epsilon")
    u, times = starts(PROCESS), grids.from_table(PROCESS, 5, t_end=0.001)
    guided = dn.from_diffusers(net, scheduler(), {"shift": 0.1}, guidance=3.0, null={"shift": 0.0})
    problem = dn.Problem(guided.process, guided)
    plain = dn.from_diffusers(net, scheduler(), {"shift": 0.3})
    checks.assert_close(problem.eps(u, 0.5), dn.Problem(plain.process, plain).eps(u, 0.5), 1e-6)
    before = net.calls
    run = dn.solve(problem, "ddim", u, times)
    assert run.nfe == net.calls - before == 2 * 5
    one = dn.from_diffusers(net, scheduler(), {"shift": 0.1}, guidance=1.0, null={"shift": 0.0})
    assert dn.solve(dn.Problem(one.process, one), "ddim", u, times).nfe == 5


def test_edm_networks(vp):
    def net(x, sigma, gain=1.0):
        assert sigma.dtype == torch.float32 or sigma.dtype == torch.float64
        assert sigma.shape == (len(x),)
        return gain * smooth()(x, sigma.double()).to(x.dtype)

    denoiser = dn.from_edm(net)
    u, times = starts(vp.process), grids.log_snr(vp.process, 12)
    ours, theirs = (dn.solve(dn.Problem(vp.process, d), "dpmpp_2m", u, times).u for d in (smooth(), denoiser))
    checks.assert_close(theirs, ours, 1e-12)
    conditional = dn.from_edm(net, {"gain": 0.5})
    checks.assert_close(conditional(u, 1.0), 0.5 * denoiser(u, 1.0))
    with pytest.raises(ValueError, match="net returned shape"):
        dn.from_edm(lambda x, sigma: x[:1])(u, 1.0)


@pytest.mark.parametrize("name", ["ddim", "f_pndm", "unipc", "edm_heun", "er_sde", "gddim"])
def test_a_k_diffusion_sampler(name):
    process = dn.VE(10.0)
    u, sigmas = starts(process), grids.karras(process, 12)
    seen = []

    def model(x, sigma, scale=1.0):
        seen.append(sigma[0].item())
        return scale * smooth()(x, sigma.double()).to(x.dtype)

    steps = []
    sample = dn.interop.sampler(name)
    got = sample(model, u, sigmas, extra_args={"scale": 1.0}, callback=steps.append)
    checks.assert_close(got, dn.solve(dn.Problem(process, smooth()), name, u, sigmas).u, 1e-11)
    assert len(steps) == 12 and steps[-1]["sigma"] == sigmas[-1] and len(seen) == evaluations(process, name, 12)
    assert torch.equal(got, sample(model, u, sigmas))


def test_a_k_diffusion_sampler_ends_at_zero_or_says_why():
    sigmas = torch.cat([grids.karras(dn.VE(10.0), 8), torch.zeros(1)])
    model = lambda x, sigma: smooth()(x, sigma)  # noqa: E731
    assert dn.interop.sampler("unipc")(model, starts(dn.VE(10.0)), sigmas).isfinite().all()
    with pytest.raises(dn.DiffnumError, match="end the grid above 0"):
        dn.interop.sampler("rk4")(model, starts(dn.VE(10.0)), sigmas)


# --------------------------------------------------------------------------------------- a run question by question


def test_questions_and_answers():
    run = Questions(lambda model: model(1, 0.5) + model(2, 0.25))
    assert run.question == (1, 0.5) and not run.done
    run.answer(10)
    assert run.question == (2, 0.25)
    run.answer(5)
    assert run.done and run.result == 15
    with pytest.raises(RuntimeError):
        run.answer(0)


def test_questions_raise_where_the_answer_was_given_and_end_when_nobody_listens():
    import threading

    def broken(model):
        model(1, 1)
        raise ValueError("inside")

    run = Questions(broken)
    with pytest.raises(ValueError, match="inside"):
        run.answer(0)
    before = threading.active_count()
    runs = [Questions(lambda model: model(1, 1)) for _ in range(5)]
    assert threading.active_count() == before + 5
    del runs
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(0.5)
    assert threading.active_count() <= before


# ------------------------------------------------------------------------------------------------ with diffusers


@pytest.fixture(scope="module")
def unet():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'diffnum[interop]'")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, num_class_embeds=None,
    )  # fmt: skip
    return net.eval()


@pytest.fixture(scope="module")
def class_unet():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'diffnum[interop]'")
    torch.manual_seed(1)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1, num_class_embeds=11,
    )  # fmt: skip
    return net.eval()


def start(batch=2):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def their_ddim(unet, theirs, u, steps, **condition):
    theirs.set_timesteps(steps)
    for k in theirs.timesteps:
        u = theirs.step(unet(u, k, **condition).sample, k, u).prev_sample.float()
    return u


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_saved_unet_under_our_ddim_is_their_loop(unet, tmp_path, kind):
    from diffusers import DDIMScheduler, UNet2DModel

    unet.save_pretrained(tmp_path / "unet")
    DDIMScheduler(clip_sample=False, prediction_type=kind, set_alpha_to_one=False, steps_offset=0,
                  timestep_spacing="leading").save_pretrained(tmp_path / "scheduler")  # fmt: skip
    net, theirs = (
        UNet2DModel.from_pretrained(tmp_path / "unet").eval(),
        DDIMScheduler.from_pretrained(tmp_path / "scheduler"),
    )
    denoiser = dn.from_diffusers(net, theirs)
    shipped = their_ddim(net, theirs, start(), 10)
    table = torch.cumprod(1 - betas_of(theirs), 0)  # theirs is float32, which alone moves the end by 2e-6
    theirs.alphas_cumprod, theirs.final_alpha_cumprod = table, table[0]
    u = their_ddim(net, theirs, start(), 10)
    # leading: 900, 800, ..., 0; their last step goes from index 0 to index 0, and moves nothing
    times = (torch.arange(900, -1, -100, dtype=torch.float64) + 1) / 1000
    problem = dn.Problem(denoiser.process, denoiser)
    ours = dn.solve(problem, "ddim", start(), times)
    size = u.abs().max().item()  # an untrained network lets states grow
    checks.assert_close(ours.u, u, 1e-6 * size)
    checks.assert_close(ours.u, shipped, 4e-6 * size)
    assert ours.nfe == 9


def test_a_class_conditional_unet_with_guidance(class_unet):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")
    labels, null = {"class_labels": torch.tensor([3, 7])}, {"class_labels": torch.tensor([10, 10])}
    times = (torch.arange(900, -1, -100, dtype=torch.float64) + 1) / 1000
    u = their_ddim(class_unet, theirs, start(), 10, **labels)
    denoiser = dn.from_diffusers(class_unet, theirs, labels)
    checks.assert_close(dn.solve(dn.Problem(denoiser.process, denoiser), "ddim", start(), times).u, u, 5e-6)

    guided = dn.from_diffusers(class_unet, theirs, lambda x: labels, guidance=4.0, null=null)
    run = dn.solve(dn.Problem(guided.process, guided), "ddim", start(), times)
    with torch.no_grad():
        theirs.set_timesteps(10)
        x = start()
        for k in theirs.timesteps:
            a, b = (class_unet(x, k, **given).sample for given in (null, labels))
            x = theirs.step(a + 4.0 * (b - a), k, x).prev_sample
    checks.assert_close(run.u, x, 2e-5)
    assert run.nfe == 18


SOLVERS = [("ddim", {}), ("f_pndm", {}), ("unipc", {"order": 2}), ("rk4", {}), ("dpmpp_2m", {}), ("er_sde", {}),
           ("gddim", {"corrector": "pec"})]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), SOLVERS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_pipeline_runs_our_solvers(unet, name, options):
    from diffusers import DDPMPipeline, DDPMScheduler

    pipe = DDPMPipeline(unet, DDPMScheduler(prediction_type="v_prediction"))  # keeps an untrained network in bounds
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = dn.DiffnumScheduler.from_config(pipe.scheduler.config, solver=name, options=options)
    got = pipe(
        batch_size=2, num_inference_steps=6, output_type="np", generator=torch.Generator().manual_seed(3)
    ).images  # fmt: skip

    denoiser = dn.from_diffusers(unet, pipe.scheduler)
    process, generator = denoiser.process, torch.Generator().manual_seed(3)
    u = torch.randn(2, 3, 8, 8, generator=generator)
    times = grids.log_snr(process, 6, t_end=1e-3)
    ours = (
        dn.solve(dn.Problem(process, denoiser), name, u, times, generator=generator, **options)
        if dn.solvers.registry[name].draws
        else dn.solve(dn.Problem(process, denoiser), name, u, times, **options)
    )
    expected = (ours.u / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).double()
    assert len(pipe.scheduler.timesteps) == ours.nfe
    checks.assert_close(torch.from_numpy(got).double(), expected, 1e-6 if name == "ddim" else 5e-6)


def test_a_scheduler_by_hand_saved_and_loaded(unet, tmp_path):
    from diffusers import DDPMPipeline

    made = dn.DiffnumScheduler("pndm_variable", options={"order": 3}, grid="karras", prediction_type="v_prediction")
    made.save_pretrained(tmp_path)
    back = dn.DiffnumScheduler.from_pretrained(tmp_path)
    assert dict(back.config) == dict(made.config) or back.config.options == {"order": 3}
    with pytest.raises(dn.DiffnumError, match="set_timesteps"):
        back.step(start(), 0, start())
    back.set_timesteps(5)
    assert len(back.timesteps) == 5 + 6 and back.timesteps[0] == 999 and back.timesteps[-1] > 0
    with pytest.raises(dn.DiffnumError, match="out of turn"):
        back.step(start(), 3, start())
    back.set_timesteps(5)
    x = back.scale_model_input(start(), back.timesteps[0])
    with torch.no_grad():
        for k in back.timesteps:
            x = back.step(unet(x, k).sample, k, x, return_dict=False)[0]
    denoiser = dn.from_diffusers(unet, back)
    times = grids.karras(denoiser.process, 5, t_end=1e-3)
    ours = dn.solve(dn.Problem(denoiser.process, denoiser), "pndm_variable", start(), times, order=3).u
    checks.assert_close(x, ours, 1e-6 * ours.abs().max().item())
    noisy = back.add_noise(torch.ones(2, 3, 8, 8), start(), torch.tensor([999, 0]))
    alpha, sigma = denoiser.process.levels(1e-3)
    checks.assert_close(noisy[1], alpha * torch.ones(3, 8, 8) + sigma * start()[1], 1e-6)

    DDPMPipeline(unet, back).save_pretrained(tmp_path / "pipe")
    again = DDPMPipeline.from_pretrained(tmp_path / "pipe")
    assert type(again.scheduler).__name__ == "DiffnumScheduler" and again.scheduler.config.solver == "pndm_variable"


def test_refusals_of_the_scheduler(unet):
    for given, word in (({"solver": "nonsense"}, "nonsense"), ({"grid": "nonsense"}, "nonsense"),
                        ({"prediction_type": "flow"}, "flow")):  # fmt: skip
        with pytest.raises((KeyError, ValueError, dn.DiffnumError), match=word):
            dn.DiffnumScheduler(**given)
    with pytest.raises(dn.DiffnumError, match="does not begin"):
        dn.DiffnumScheduler("exponential_adams", options={"start": "analytic"}).set_timesteps(5)
    with pytest.raises(TypeError, match="no option"):
        dn.DiffnumScheduler("ddim", options={"nonsense": 1}).set_timesteps(5)


def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass No:\n    def find_spec(self, name, *rest):\n"
        "        if name == 'diffusers':\n            raise ModuleNotFoundError('none', name=name)\n"
        "sys.meta_path.insert(0, No())\n"
    )
    code = "import diffnum as dn\ntry:\n    dn.DiffnumScheduler('ddim')\nexcept dn.DiffnumError as e:\n    print(e)\n"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert "pip install 'diffnum[interop]'" in done.stdout and len(done.stdout.splitlines()) == 1, done


DOORS = {
    "diffusers": lambda: through(dn.from_diffusers(lambda x, k: 0.1 * x, scheduler())),
    "cosine table": lambda: through(
        dn.from_diffusers(lambda x, k: 0.1 * x, {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 20})
    ),
    "own table": lambda: through(dn.from_diffusers(lambda x, k: 0.1 * x, {"trained_betas": [0.01] * 20})),
    "k-diffusion": lambda: dn.interop.sampler("unipc")(
        lambda x, sigma: x / (1 + sigma[:, None] ** 2), torch.ones(2, 1, dtype=torch.float64, device="cpu"), [9.1, 1.3]
    ),
    "guide": lambda: through(dn.Guided(smooth(), smooth(), label=0), PROCESS),
    "golden": lambda: json.dumps(golden.values("ddim_eta", {}, steps=2)),
}


def through(denoiser, process=None):
    """Two steps from fixed states to the middle of the process."""
    process = process or denoiser.process
    u = torch.ones(2, 4, dtype=torch.float64, device="cpu")
    return dn.solve(dn.Problem(process, denoiser), "ddim", u, grids.uniform(process, 2, t_end=0.5)).u


@pytest.mark.parametrize("name", DOORS)
def test_defaults_of_torch_reach_no_door(name):
    """Neither another device by default nor another dtype changes a bit."""
    plain = DOORS[name]()
    before = torch.get_default_dtype()
    for enter in (lambda: torch.device("meta"), lambda: contextlib.nullcontext(torch.set_default_dtype(torch.float16))):
        kept.clear()
        try:
            with enter():
                other = DOORS[name]()
        finally:
            torch.set_default_dtype(before)
        assert torch.equal(plain, other) if isinstance(plain, torch.Tensor) else plain == other


@pytest.mark.parametrize("sigmas", [[], [1.0], [[2.0, 1.0]], [2.0, float("nan")], ["2", "1"], None, 3.0])
def test_levels_that_are_none(sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        dn.interop.sampler("ddim")(lambda x, sigma: x, torch.ones(1, 1), sigmas)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train_timesteps", 0), ("num_train_timesteps", 10.0), ("num_train_timesteps", "10"),
        ("beta_start", -0.1), ("beta_start", "a"), ("beta_end", float("nan")), ("beta_end", None),
        ("trained_betas", ["a"]), ("trained_betas", [0.1, float("inf")]), ("trained_betas", 3j),
    ],
)  # fmt: skip
def test_tables_that_are_none(key, value):
    with pytest.raises(ValueError, match=key):
        betas_of({"beta_schedule": "scaled_linear", key: value})
