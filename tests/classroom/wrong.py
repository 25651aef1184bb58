"""Wrong solvers, one fault each: a comment above each names the check that must fail on it."""

import random
import types
from itertools import pairwise

import torch

import diffnum as dn
from diffnum.coefficients import adams_bashforth, combine
from diffnum.solvers import registry, transfer


def claims(order=2, nfe=lambda n: n + 1, **more):
    return dn.method(order=order, nfe=nfe, paper="wrong on purpose", exact_for="a point mass", **more)


def multistep(problem, u, times, weights=(3 / 2, -1 / 2), back=1, start="heun", pick=lambda e, old: (e, old)):
    """S-PNDM with a screw loose: the frame of many solvers below."""
    past = []
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        past = [e, *past[:back]]
        if len(past) <= 1:
            bar = combine((1 / 2, 1 / 2), (e, problem.eps(transfer(problem, u, e, t, s), s))) if start == "heun" else e
        else:
            bar = combine(weights, pick(e, past[min(back, len(past) - 1)]))
        u = transfer(problem, u, bar, t, s)
        yield u


# order: the history is one step too old
@claims()
def off_by_one_history(problem, u, times):
    yield from multistep(problem, u, times, back=2)


# order: the newest noise gets the weight of the oldest
@claims()
def swapped_weights(problem, u, times):
    yield from multistep(problem, u, times, pick=lambda e, old: (old, e))


# limit: the weights sum to 0.99
@claims()
def weights_without_sum(problem, u, times):
    yield from multistep(problem, u, times, weights=(1.49, -0.5))


# order: weights 1.4 and -0.4
@claims()
def perturbed_weights(problem, u, times):
    yield from multistep(problem, u, times, weights=(1.4, -0.4))


# order: DDIM with the claim of a better method
@claims(order=2, nfe=lambda n: n)
def ddim_claiming_two(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        yield u


# order: four noises with equal-step weights, order 4 claimed
@claims(order=4, nfe=lambda n: n + min(n, 3) * 3, reaches_zero=lambda n: n > 3)
def four_weights_claiming_four(problem, u, times):
    past = []
    for i, (t, s) in enumerate(pairwise(times)):
        e = problem.eps(u, t)
        past = [e, *past[:3]]
        if i < 3:
            m = problem.process.time_of_rho((problem.process.rho(t) + problem.process.rho(s)) / 2)
            e2 = problem.eps(transfer(problem, u, e, t, m), m)
            e3 = problem.eps(transfer(problem, u, e2, t, m), m)
            e4 = problem.eps(transfer(problem, u, e3, t, s), s)
            bar = (e + 2 * e2 + 2 * e3 + e4) / 6
        else:
            bar = combine(adams_bashforth(4), past)
        u = transfer(problem, u, bar, t, s)
        yield u


# order: Adams weights of order 3 by the true steps, started with two DDIM steps
@claims(order=3, nfe=lambda n: n)
def poor_start(problem, u, times):
    yield from variable(problem, u, times, 3)


def variable(problem, u, times, order, step=lambda rho, i: rho[i + 1] - rho[i]):
    rho = [problem.process.rho(t) for t in times]
    nodes, past = [], []
    for i, (t, s) in enumerate(pairwise(times)):
        past, nodes = [problem.eps(u, t), *past][:order], [rho[i], *nodes][:order]
        kept = order if len(nodes) == order else 1  # DDIM until the history is full
        x = torch.tensor([rho[i] - node for node in nodes[:kept]], dtype=torch.float64)
        powers = torch.stack([(-x) ** k for k in range(kept)])
        moments = torch.tensor([step(rho, i) ** k / (k + 1) for k in range(kept)], dtype=torch.float64)
        u = transfer(problem, u, combine(torch.linalg.solve(powers, moments).tolist(), past[:kept]), t, s)
        yield u


# rough: the length of the step before in place of this one, which no smooth grid shows
@claims(order=2, nfe=lambda n: n)
def ratio_of_old_steps(problem, u, times):
    yield from variable(problem, u, times, 2, lambda rho, i: rho[i] - rho[i - 1])


# rough: the step after this one, which on alternating steps is as long as the one before
@claims(order=2, nfe=lambda n: n)
def ratio_of_next_steps(problem, u, times):
    yield from variable(
        problem, u, times, 2, lambda rho, i: rho[min(i + 2, len(rho) - 1)] - rho[min(i + 1, len(rho) - 2)]
    )


# rough: Adams-Bashforth for du/dt with the weights of equal steps
@dn.method(order=2, nfe=lambda n: n + 1, paper="wrong on purpose", reaches_zero=lambda n: n > 1)
def equal_step_adams(problem, u, times):
    old = None
    for t, s in pairwise(times):
        k = problem.velocity(u, t)
        bar = (k + problem.velocity(u + (s - t) * k, s)) / 2 if old is None else 1.5 * k - 0.5 * old
        u, old = u + (s - t) * bar, k
        yield u


# limit: t and s are swapped in the move
@claims(order=1, nfe=lambda n: n)
def swapped_times(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), s, t)
        yield u


# precision: the state passes through float32
@claims(order=1, nfe=lambda n: n)
def cast(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s).float().to(u.dtype)
        yield u


# precision: the times pass through float32
@claims(order=1, nfe=lambda n: n)
def rounded_times(problem, u, times):
    for t, s in pairwise(torch.tensor(times).tolist()):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        yield u


# precision: the result is always float64
@claims(order=1, nfe=lambda n: n)
def always_double(problem, u, times):
    u = u.double()
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        yield u


# unchanged: the start is overwritten
@claims(order=1, nfe=lambda n: n)
def in_place(problem, u, times):
    for t, s in pairwise(times):
        u.copy_(transfer(problem, u, problem.eps(u, t), t, s))
        yield u.clone()


# unchanged: one buffer is yielded again and again
@claims(order=1, nfe=lambda n: n)
def one_buffer(problem, u, times):
    u = u.clone()
    for t, s in pairwise(times):
        u.copy_(transfer(problem, u, problem.eps(u, t), t, s))
        yield u


# repeatable: a little noise from the global generator
@claims(order=1, nfe=lambda n: n)
def hidden_noise(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s) + 1e-6 * torch.randn_like(u)
        yield u


# repeatable: noise from Python's own generator
@claims(order=1, nfe=lambda n: n)
def hidden_choice(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s) * (1 + 1e-7 * random.random())
        yield u


PAST = []


# repeatable: the history outlives the run
@claims(order=1, nfe=lambda n: n)
def global_history(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        PAST.append(e)
        bar = 1.5 * e - 0.5 * PAST[-2] if len(PAST) > 1 and PAST[-2].shape == e.shape else e
        u = transfer(problem, u, bar, t, s)
        yield u


# repeatable: the factors of the first grid serve every grid
@claims(order=1, nfe=lambda n: n)
def cached_grid(problem, u, times, cache={}):  # noqa: B006
    for i, (t, s) in enumerate(pairwise(times)):
        psi, c = cache.setdefault(i, problem.process.step(t, s))
        u = psi * u + c * problem.eps(u, t)
        yield u


# rows: the noise prediction is normalised over the batch
@claims(order=1, nfe=lambda n: n)
def normalised(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        u = transfer(problem, u, e * (e.std() / (e.std() + 1e-3)), t, s)
        yield u


# rows: the mean over the batch is taken out
@claims(order=1, nfe=lambda n: n)
def centred(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        u = transfer(problem, u, e - 0.01 * e.mean(0, keepdim=True), t, s)
        yield u


# rows: vectors only
@claims(order=1, nfe=lambda n: n)
def vectors_only(problem, u, times):
    for t, s in pairwise(times):
        batch, width = u.shape
        u = transfer(problem, u, problem.eps(u, t).reshape(batch, width), t, s)
        yield u


# states: one row too few is a batch of four
@claims(order=1, nfe=lambda n: n)
def batch_of_four(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t).reshape(4, 4), t, s)
        yield u


# limit: the clean prediction is clipped
@claims(order=1, nfe=lambda n: n)
def clipped(problem, u, times):
    for t, s in pairwise(times):
        alpha, sigma = problem.process.levels(t)
        e = (u - alpha * problem.x0(u, t).clamp(-1, 1)) / sigma
        u = transfer(problem, u, e, t, s)
        yield u


# end: a grid of its own between the right ends
@claims(order=1, nfe=lambda n: n)
def own_grid(problem, u, times):
    yield from ddim_claiming_two.__wrapped__(
        problem, u, torch.linspace(times[0], times[-1], len(times)).double().tolist()
    )


# end: it always goes to the end of the process
@claims(order=1, nfe=lambda n: n)
def own_end(problem, u, times):
    yield from ddim_claiming_two.__wrapped__(problem, u, [*times[:-1], problem.process.t_end / 2])


# end: the first step is left out
@claims(order=1, nfe=lambda n: n - 1)
def late(problem, u, times):
    yield u
    for t, s in pairwise(times[:-1]):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        yield u


# end: it starts at the end of the process, not at times[0]
@claims(order=1, nfe=lambda n: n)
def own_start(problem, u, times):
    yield from ddim_claiming_two.__wrapped__(problem, u, [problem.process.t_max, *times[1:]])


# evaluations: a second evaluation a step, past the counter
@claims(order=2, nfe=lambda n: n, reaches_zero=lambda n: False)
def past_the_counter(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        alpha, sigma = problem.process.levels(s)
        other = problem.denoiser.eps(transfer(problem, u, e, t, s) / alpha, sigma / alpha)
        u = transfer(problem, u, (e + other) / 2, t, s)
        yield u


# evaluations: two a step, one claimed
@claims(order=2, nfe=lambda n: n, reaches_zero=lambda n: False)
def twice_as_dear(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        u = transfer(problem, u, (e + problem.eps(transfer(problem, u, e, t, s), s)) / 2, t, s)
        yield u


# own: the reference solution in place of steps
@claims(order=4, nfe=lambda n: n)
def reference(problem, u, times):
    from diffnum.analysis import reference

    yield from reference(problem, u, times, trajectory=True)[1:]


# own: a solver of the library by name
@claims(order=2)
def by_name(problem, u, times):
    yield from registry["s_pndm"](problem, u, times)


# limit: a bias of 0.1 percent in the factor of the noise
@claims(order=1, nfe=lambda n: n)
def biased(problem, u, times):
    for t, s in pairwise(times):
        psi, c = problem.process.step(t, s)
        u = psi * u + 1.01 * c * problem.eps(u, t)
        yield u


# processes: the formulas of VP written out
@claims(order=1, nfe=lambda n: n)
def vp_only(problem, u, times):
    p = problem.process

    def levels(t):
        log_alpha = -0.25 * t * t * 19.9 - 0.05 * t
        alpha = torch.exp(torch.tensor(log_alpha, dtype=torch.float64)).item()
        return (alpha, (1 - alpha * alpha) ** 0.5) if p.time_is_rho else p.levels(t)

    for t, s in pairwise(times):
        (a, sa), (c, sc) = levels(t), levels(s)
        u = c / a * u + c * (sc / c - sa / a) * problem.eps(u, t)
        yield u


# zero: Heun's method evaluates at the end, and says nothing of it
@dn.method(order=2, nfe=lambda n: 2 * n, paper="wrong on purpose")
def heun_to_zero(problem, u, times):
    for t, s in pairwise(times):
        k = problem.velocity(u, t)
        u = u + (s - t) * (k + problem.velocity(u + (s - t) * k, s)) / 2
        yield u


# zero: NaN at the end
@claims(order=1, nfe=lambda n: n)
def nan_at_zero(problem, u, times):
    for t, s in pairwise(times):
        (a, sa), (c, sc) = map(problem.process.levels, (t, s))
        e = problem.eps(u, t)
        x0 = (u - sa * e) / a
        u = c * x0 + sc * e * torch.tensor(sc, dtype=torch.float64).log().exp() / sc if sc else u * float("nan")
        yield u


# steps: nothing happens with one step
@claims(order=1, nfe=lambda n: n if n > 1 else 0)
def not_with_one(problem, u, times):
    if len(times) == 2:
        yield u.clone()
        return
    yield from ddim_claiming_two.__wrapped__(problem, u, times)


# states: only even numbers
@claims(order=1, nfe=lambda n: n)
def even_only(problem, u, times):
    for i in range(0, len(times) - 1, 2):
        t, m, s = times[i : i + 3]
        u = transfer(problem, u, problem.eps(u, t), t, m)
        yield u
        u = transfer(problem, u, problem.eps(u, m), m, s)
        yield u


# states: the start is yielded, too
@claims(order=1, nfe=lambda n: n)
def one_too_many(problem, u, times):
    yield u
    yield from ddim_claiming_two.__wrapped__(problem, u, times)


# states: only the last one is yielded
@claims(order=1, nfe=lambda n: n)
def last_only(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s)
    yield u


# runs: it returns the states
def a_list(problem, u, times):
    states = []
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        states.append(u)
    return states


# runs: a stub
def stub(problem, u, times):
    raise NotImplementedError("your solver here")


# order: the claim is lower than what it has
@dn.method(order=1, nfe=lambda n: 2 * n, paper="wrong on purpose", reaches_zero=lambda n: False)
def too_modest(problem, u, times):
    for t, s in pairwise(times):
        k = problem.velocity(u, t)
        u = u + (s - t) * (k + problem.velocity(u + (s - t) * k, s)) / 2
        yield u


# limit: the noise of the stochastic step is too small by a tenth, and the law is wrong
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def weak_noise(problem, u, times, noise):
    for t, s in pairwise(times):
        psi, P = problem.process.reverse_step(s, t, 1.0)
        (a, sa), (c, _) = map(problem.process.levels, (t, s))
        x0 = (u - sa * problem.eps(u, t)) / a
        f = float(psi)
        u = f * u + (c - f * a) * x0 + 0.9 * float(P) ** 0.5 * noise(u)
        yield u


# precision: factors in float32
@claims(order=1, nfe=lambda n: n)
def single_factors(problem, u, times):
    for t, s in pairwise(times):
        psi, c = torch.tensor(problem.process.step(t, s)).unbind()
        u = psi * u + c * problem.eps(u, t)
        yield u


# runs: ten steps, whatever is asked for
@claims(order=1, nfe=lambda n: n)
def ten_steps(problem, u, times):
    for i in range(10):
        u = transfer(problem, u, problem.eps(u, times[i]), times[i], times[i + 1])
        yield u


# end: the last state is the one before it
@claims(order=1, nfe=lambda n: n)
def without_last(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        u = transfer(problem, u, e, t, s) if s != times[-1] else u
        yield u


# evaluations: two a step are claimed, one is made
@claims(order=1, nfe=lambda n: 2 * n)
def fewer_than_claimed(problem, u, times):
    yield from ddim_claiming_two.__wrapped__(problem, u, times)


# order: Heun, and Euler on the last tenth
@dn.method(order=2, nfe=lambda n: 2 * n, paper="wrong on purpose", reaches_zero=lambda n: False)
def drops_at_the_end(problem, u, times):
    for i, (t, s) in enumerate(pairwise(times)):
        k = problem.velocity(u, t)
        other = problem.velocity(u + (s - t) * k, s)
        u = u + (s - t) * (k if i > 0.9 * len(times) else (k + other) / 2)
        yield u


# states: the first weight divides by n - 1
@claims(order=1, nfe=lambda n: n)
def nan_with_one(problem, u, times):
    part = torch.tensor(float(len(times) - 2)) / (len(times) - 2)
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t) * part, t, s)
        yield u


# order: the midpoint's slope is taken at the start time
@dn.method(order=2, nfe=lambda n: 2 * n, paper="wrong on purpose")
def midpoint_at_t(problem, u, times):
    for t, s in pairwise(times):
        v = u + (s - t) / 2 * problem.velocity(u, t)
        u = u + (s - t) * problem.velocity(v, t)
        yield u


# order: Heun's second slope is taken at the old state
@dn.method(order=2, nfe=lambda n: 2 * n, paper="wrong on purpose", reaches_zero=lambda n: False)
def heun_at_old_state(problem, u, times):
    for t, s in pairwise(times):
        u = u + (s - t) * (problem.velocity(u, t) + problem.velocity(u, s)) / 2
        yield u


# order: weights 1, 3, 1, 1 over 6 in the Runge-Kutta method
@dn.method(order=4, nfe=lambda n: 4 * n, paper="wrong on purpose", reaches_zero=lambda n: False)
def kutta_weights(problem, u, times):
    for t, s in pairwise(times):
        h, m = s - t, (t + s) / 2
        a = problem.velocity(u, t)
        b = problem.velocity(u + h / 2 * a, m)
        c = problem.velocity(u + h / 2 * b, m)
        u = u + h * (a + 3 * b + c + problem.velocity(u + h * c, s)) / 6
        yield u


# limit: the drift has the wrong sign in front of the score
@dn.method(order=1, nfe=lambda n: n, paper="wrong on purpose")
def wrong_sign(problem, u, times):
    for t, s in pairwise(times):
        F, G2 = float(problem.process.F(t)), float(problem.process.G(t)) ** 2
        u = u + (s - t) * (F * u + G2 / 2 * problem.score(u, t))
        yield u


# limit: the full score of the SDE in the ODE
@dn.method(order=1, nfe=lambda n: n, paper="wrong on purpose")
def full_score(problem, u, times):
    for t, s in pairwise(times):
        F, G2 = float(problem.process.F(t)), float(problem.process.G(t)) ** 2
        u = u + (s - t) * (F * u - G2 * problem.score(u, t))
        yield u


# order: the ratio of steps is upside down in two steps of DPM-Solver++
@claims(order=2, nfe=lambda n: n)
def upside_down(problem, u, times):
    process, old, before = problem.process, None, None
    for t, s in pairwise(times):
        (_, sigma_t), (alpha_s, sigma_s) = process.levels(t), process.levels(s)
        x0 = problem.x0(u, t)
        if sigma_s == 0:
            u = alpha_s * x0
        else:
            h = process.log_snr(s) - process.log_snr(t)  # twice what it should be
            bar = x0 if old is None else x0 + h / before * (x0 - old)
            u = sigma_s / sigma_t * u - alpha_s * (torch.tensor(-h / 2, dtype=torch.float64).expm1().item()) * bar
            before = h
        old = x0
        yield u


# limit: the states are bounded
@claims(order=1, nfe=lambda n: n)
def bounded_state(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s).clamp(-1, 1)
        yield u


# point: Euler's method in t claims to be exact on a point
@claims(order=1, nfe=lambda n: n)
def euler_on_a_point(problem, u, times):
    for t, s in pairwise(times):
        u = u + (s - t) * problem.velocity(u, t)
        yield u


# own: a solver of the library with a small change of its results
@claims(order=2)
def disguised(problem, u, times):
    for state in dn.solvers.registry["s_pndm"](problem, u, times):
        yield state * 1.0


# own: one step of its own, and a solver of the library for the rest
@claims(order=1, nfe=lambda n: n)
def first_step_only(problem, u, times):
    u = transfer(problem, u, problem.eps(u, times[0]), times[0], times[1])
    yield u
    if len(times) > 2:
        yield from registry["ddim"](problem, u, times[1:])


# repeatable: noise from torch, seeded to look repeatable
@claims(order=1, nfe=lambda n: n)
def seeded_noise(problem, u, times):
    torch.manual_seed(0)
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s) + 1e-9 * torch.randn(u.shape)
        yield u


# repeatable: noise of its own in a stochastic step
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def own_noise(problem, u, times, noise):
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * torch.randn_like(noise(u))
        yield u


# limit: one draw for all steps
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def one_draw(problem, u, times, noise):
    z = noise(u)
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * z
        yield u


# limit: the noise of a step grows like the step, not like its root
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def noise_like_h(problem, u, times, noise):
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        u = u + (s - t) * drift + (t - s) * float(problem.process.G(t)) * noise(u)
        yield u


# limit: the drift of the ODE with the noise of the SDE
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def drift_of_the_ode(problem, u, times, noise):
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 0.0)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * noise(u)
        yield u


# order: weak order 2 is claimed of Euler and Maruyama
@dn.method(weak_order=2, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def maruyama_claiming_two(problem, u, times, noise):
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * noise(u)
        yield u


# limit: an adaptive method that does not look at its tolerance
@dn.method(order=None, nfe=None, paper="wrong on purpose", reaches_zero=lambda n: False)
def deaf(problem, u, times, tol=1e-4):
    for t, s in pairwise(times):
        k = problem.velocity(u, t)
        u = u + (s - t) * (k + problem.velocity(u + (s - t) * k, s)) / 2
        yield u


# limit: position and momentum are mixed up
@dn.method(order=1, nfe=lambda n: n, paper="wrong on purpose", families=("phase_space",))
def mixed_up(problem, u, times):
    for t, s in pairwise(times):
        u = u + (s - t) * problem.velocity(u, t).flip(1)
        yield u


# order: a symplectic step of order 1 with the claim 2
@dn.method(order=2, nfe=lambda n: n, paper="wrong on purpose", families=("phase_space",))
def euler_on_phase_space(problem, u, times):
    for t, s in pairwise(times):
        u = u + (s - t) * problem.velocity(u, t)
        yield u


# clean: it closes its output
@claims(order=1, nfe=lambda n: n)
def closes_output(problem, u, times):
    import sys

    sys.stdout.close()
    yield from ddim_claiming_two.__wrapped__(problem, u, times)


# clean: it sets the default dtype
@claims(order=1, nfe=lambda n: n)
def sets_default(problem, u, times):
    torch.set_default_dtype(torch.float64)
    yield from ddim_claiming_two.__wrapped__(problem, u, times)


# runs: an option without which it does not run
@claims(order=1, nfe=lambda n: n)
def needs_option(problem, u, times, gamma=None):
    for t, s in pairwise(times):
        u = transfer(problem, u, gamma * problem.eps(u, t), t, s)
        yield u


# limit: the noise is asked for at the wrong end of the step
@claims(order=1, nfe=lambda n: n, reaches_zero=lambda n: False)
def noise_at_s(problem, u, times):
    for t, s in pairwise(times):
        alpha, sigma = problem.process.levels(s)
        x = problem.x0(u, s)
        u = alpha * x + sigma * (u - problem.process.alpha(t) * x) / problem.process.sigma(s)
        yield u


# rows: the event is one row of numbers
@claims(order=1, nfe=lambda n: n)
def last_axis_mean(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        u = transfer(problem, u, e - 0.01 * e.mean(-1, keepdim=True), t, s)
        yield u


# order: times are taken to lie between 0 and 1, and on VE they do not
@claims(order=1, nfe=lambda n: n)
def times_below_one(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, min(t, 1.0)), t, s)
        yield u


# repeatable: evaluations are kept on the process, which outlives the run
@claims(order=1, nfe=lambda n: n)
def kept_on_the_process(problem, u, times):
    kept = vars(problem.process).setdefault("_kept", {})
    for t, s in pairwise(times):
        u = transfer(problem, u, kept.setdefault((t, u.shape), problem.eps(u, t)), t, s)
        yield u


# rows: all rows get the noise of the first
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def shared_noise(problem, u, times, noise):
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * noise(u[:1])
        yield u


# limit: the size of a draw without its sign, which a law read off from unit draws does not show
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def without_sign(problem, u, times, noise):
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * noise(u).abs()
        yield u


# limit: the last state is replaced by its clean prediction
@claims(order=1, nfe=lambda n: n + 1, reaches_zero=lambda n: False)
def denoised(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        yield u if s != times[-1] else problem.x0(u, s)


# order: every second corrector is left out
@claims(order=2, nfe=lambda n: n + (n + 1) // 2, reaches_zero=lambda n: False)
def every_second(problem, u, times):
    for i, (t, s) in enumerate(pairwise(times)):
        k = problem.velocity(u, t)
        u = u + (s - t) * (k if i % 2 else (k + problem.velocity(u + (s - t) * k, s)) / 2)
        yield u


# rows: images are turned over
@claims(order=1, nfe=lambda n: n)
def turned_over(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        u = transfer(problem, u, e.flip(-1) if e.ndim > 2 else e, t, s)
        yield u


# states: a batch of one loses its axis
@claims(order=1, nfe=lambda n: n)
def squeezed(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t), t, s).squeeze()
        yield u


# limit: each row of the clean prediction is cut off at its own 90 %
@claims(order=1, nfe=lambda n: n)
def thresholded(problem, u, times):
    for t, s in pairwise(times):
        (alpha, sigma), (alpha_s, sigma_s) = map(problem.process.levels, (t, s))
        x0 = problem.x0(u, t)
        most = x0.flatten(1).abs().quantile(0.9, 1).clamp(max=1.0).reshape(-1, *[1] * (u.ndim - 1))
        x0 = x0.clamp(-most, most)
        u = alpha_s * x0 + sigma_s * (u - alpha * x0) / sigma
        yield u


# order: with an odd number of steps the second weight is dropped
@claims(reaches_zero=lambda n: n > 1)
def odd_without_history(problem, u, times):
    yield from multistep(problem, u, times, weights=(3 / 2, -1 / 2) if len(times) % 2 else (1, 0))


# rows: the history has room for eight rows
@claims(reaches_zero=lambda n: n > 1)
def history_of_eight_rows(problem, u, times):
    old = None
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        if old is None:
            bar = (e + problem.eps(transfer(problem, u, e, t, s), s)) / 2
        else:
            bar = torch.cat([combine((3 / 2, -1 / 2), (e[:8], old)), e[8:]])
        u, old = transfer(problem, u, bar, t, s), e[:8]
        yield u


# limit: the predicted noise is bounded where standard normal draws do not reach
@claims(order=1, nfe=lambda n: n)
def bounded_noise(problem, u, times):
    for t, s in pairwise(times):
        u = transfer(problem, u, problem.eps(u, t).clamp(-4, 4), t, s)
        yield u


# limit: so are the draws of a stochastic step
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def bounded_draws(problem, u, times, noise):
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * noise(u).clamp(-3, 3)
        yield u


# precision: times are rounded to four digits, where a millionth moves nothing
@claims(order=1, nfe=lambda n: n)
def four_digits(problem, u, times):
    for t, s in pairwise(round(t, 4) for t in times):
        u = transfer(problem, u, problem.eps(u, t), t, s)
        yield u


# repeatable: a generator of its own, seeded anew in every run, in place of the argument
@dn.method(weak_order=1, nfe=lambda n: n, paper="wrong on purpose", kind="sde")
def own_generator(problem, u, times, noise):
    generator = torch.Generator().manual_seed(0)
    for t, s in pairwise(times):
        drift = problem.drift(u, problem.eps(u, t), t, 1.0)
        z = torch.randn(u.shape, generator=generator, dtype=u.dtype)
        u = u + (s - t) * drift + (t - s) ** 0.5 * float(problem.process.G(t)) * z
        yield u


SEEN = {}


# repeatable: evaluations are kept by a few digits of the state
@claims(order=1, nfe=lambda n: n)
def kept_by_digits(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        u = transfer(problem, u, SEEN.setdefault((round(u.sum().item(), 3), u.shape, t), e), t, s)
        yield u


# evaluations: a second stage where the order is measured, and not where evaluations are few
@claims(nfe=lambda n: n, reaches_zero=lambda n: False)
def dear_with_many(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        bar = (e + problem.eps(transfer(problem, u, e, t, s), s)) / 2 if len(times) > 50 else e
        u = transfer(problem, u, bar, t, s)
        yield u


# evaluations: derivatives at other states, which nobody asked the prediction for
@claims(order=1, nfe=lambda n: n)
def by_free_derivatives(problem, u, times):
    for t, s in pairwise(times):
        e = problem.eps(u, t)
        problem.denoiser.question("eps", 1.1 * u, 0.7, "jvp", u)
        u = transfer(problem, u, e, t, s)
        yield u


# own: a copy of the library's function, in a module of another name
@claims(order=1, nfe=lambda n: n)
def transplanted(problem, u, times):
    made = registry["ddim"].__wrapped__
    yield from types.FunctionType(made.__code__, {**made.__globals__, "__name__": "mine"})(problem, u, times)
