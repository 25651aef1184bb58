"""What students usually get wrong in each assignment.

Each mistake by what it is: what stands in the solution, what a student writes in its place, the test cell that must
take points for it, and words that its text must contain.
"""

MISTAKES = {
    "a01_midpoint": {
        "the slope of the start time": (
            "problem.velocity(u_m, m)", "problem.velocity(u_m, t)", "order", r"every step errs like h\^2",
        ),
        "a whole step to the middle": (
            "u_m = u + (m - t) *", "u_m = u + (s - t) *", "order", r"every step errs like h\^2",
        ),
        "the state is written to": ("u = u + (s - t)", "u += (s - t)", "behaves", "writes into its start state"),
        "the middle in single precision": (
            "m = (t + s) / 2", "m = __import__('torch').tensor((t + s) / 2).item()", "hidden", "float32",
        ),
        "it goes up in time": ("u = u + (s - t)", "u = u - (s - t)", "order", "converges to something else"),
    },
    "a02_start": {
        "no start": (
            "(e + problem.eps(transfer(problem, u, e, t, s), s)) / 2", "e", "evaluations", "1 step costs 1 evaluation",
        ),
        "the noise at the end at the old state": (
            "problem.eps(transfer(problem, u, e, t, s), s)) / 2", "problem.eps(u, s)) / 2", "hidden",
            "a point mass on VP is missed",
        ),
    },
    "a03_adams": {
        "weights of equal steps": ("r = h / h_old", "r = 1", "rough", "from the actual times"),
        "the value at the end, not the mean": (
            "(1 + r / 2) * e - r / 2 * old", "(1 + r) * e - r * old", "order", r"every step errs like h\^2",
        ),
        "weights that do not sum to one": ("- r / 2 * old", "+ r / 2 * old", "order", "converges to something else"),
    },
    "a04_corrector": {
        "two weights swapped": ("9 * e + 19 * old", "19 * e + 9 * old", "order", r"every step errs like h\^2"),
        "it corrects the predicted state": (
            "problem, u, (9 * e", "problem, predicted, (9 * e", "order", "converges to something else",
        ),
        "it evaluates again": (
            "            ### END SOLUTION", "            e = problem.eps(u, s)\n", "evaluations", "4 steps cost",
        ),
        "signs of the older weights": (
            "- 5 * past[0] + past[1]", "+ 5 * past[0] - past[1]", "order", "converges to something else",
        ),
    },
    "a05_exponential": {
        "this step in place of the one before": ("/ before * (x0", "/ step * (x0", "rough", "from the actual times"),
        "the exponential without its end": ("gain = sp.exp(z - h)", "gain = sp.exp(z)", "derived", "miss the integral"),
        "a sign of the second weight": (
            "(step + expm1(-step))", "(step - expm1(-step))", "order", "converges to something else",
        ),
    },
    "a06_noise_scale": {
        "the ratio is not squared": ("(rho_t * r) ** 2", "rho_t**2 * r", "law", "noise of a step"),
        "a scale that makes a variance negative": ("rho * rho / sqrt(1 + rho)", "sqrt(rho)", "admissible", "falls"),
        "the scale of the ODE": ("rho * rho / sqrt(1 + rho)", "2 * rho", "admissible", "that is the ODE"),
        "noise of its own": ("noise(u))", "__import__('torch').randn_like(u))", "behaves", "argument noise alone"),
    },
    "a07_third_order": {
        "no start": (
            "(e + problem.eps(transfer(problem, u, e, t, s), s)) / 2", "e", "evaluations", "1 step costs 1 evaluation",
        ),
        "the noise at the end alone": (
            "(e + problem.eps(transfer(problem, u, e, t, s), s)) / 2", "problem.eps(transfer(problem, u, e, t, s), s)",
            "order", "the first step errs",
        ),
    },
    "a08_verlet": {
        "the second half kick at the start": (
            "m + h / 2 * (vm + wm)", "half + h / 2 * vm", "order", r"every step errs like h\^2",
        ),
        "half of the momentum is predicted": ("2 * half - m), 1)", "half), 1)", "order", r"every step errs like h\^2"),
    },
    "a09_adaptive": {
        "every step is accepted": ("if gap <= tol:", "if True:", "tolerance", "does not follow tol"),
        "rejected steps go on in time": (
            "                now = s if", "            now = s if", "tolerance", "does not follow|is the solution at",
        ),
    },
    "a10_process": {
        "Euler's method": (
            "c / 2 * (e + problem.eps(psi * u + c * e, s))", "c * e + 0 * problem.eps(u, s)", "hidden",
            r"every step errs like h\^2",
        ),
        "G of the noise alone": ("2 * t / (1 - t)", "2 * t", "statements", r"G\^2 and what the variance"),
        "the wrong sign of F": ("-1 / (1 - t), 2", "1 / (1 - t), 2", "statements", r"F and d log\(alpha\)"),
        "the noise factor without alpha": ("(to - frm) / (1 - frm)\n        ###", "to - frm\n        ###", "statements",
                                           "psi and c of a step"),
        "the time of twice the log-SNR": ("-level / 2", "-level", "statements", "the time of a log-SNR"),
    },
    "a11_guidance": {
        "no gradients under no_grad": ("with torch.enable_grad():", "if True:", "posterior", "does not require grad"),
        "the density in place of the odds": (".log_softmax(1)", "", "posterior", "the field of weight 1"),
        "a mean over the batch": ("odds.sum()", "odds.mean()", "posterior", "the field of weight 1"),
        "the noise level is left out": ("* sigma * slope", "* slope", "posterior", "the field of weight 1"),
        "a weight with a kink": ("(1 - v**2) ** 3", "(1 - v)", "smooth", r"by 2\.0.* kink"),
        "a weight whose second derivative jumps": ("(1 - v**2) ** 3", "(1 - v**2) ** 2", "smooth", r"by 4\.\d"),
        "a weight that is switched": ("(1 - v**2) ** 3", "(v < 1)", "smooth", "not between 1 and 4|jumps"),
        "Heun's method for the noise": ("(1 + expm1(-h) / h)", "expm1(h) / 2", "stiff", "overshoots"),
        "a weight of the line": ("(1 + expm1(-h) / h)", "(1 + expm1(-h))", "hidden", "FAILED  right limit"),
    },
}  # fmt: skip
