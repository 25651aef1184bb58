"""``diffnum train``."""

import typer

from diffnum.cli.common import app, explained, make_device


@app.command()
@explained
def train(
    data: str = typer.Option(None, help="Folder or file with CIFAR-10; by default it is found or fetched."),
    out: str = typer.Option(None, help="Folder for weights, card, log and checkpoint; by default .runs/cifar10-KIND."),
    kind: str = typer.Option(
        "edm", help="edm (white noise), blurring (a level per frequency), guide (classes and realism) or features."
    ),
    minutes: float = typer.Option(None, help="Stop after this long; by default 3 minutes."),
    images: int = typer.Option(None, help="Stop after this many images."),
    size: str = typer.Option("small", help="tiny, small (5.0 M parameters) or large (7.7 M)."),
    init: str = typer.Option(None, help="Start from this network (a name or a .safetensors file)."),
    batch: int = typer.Option(None, help="Images per step; by default 64, for guides 96, for features 1000."),
    lr: float = typer.Option(None, help="Peak learning rate; by default 0.01, for guides 0.001, for features 0.2."),
    warmup: int = typer.Option(300, help="Steps until the peak rate."),
    average: int = typer.Option(
        None, help="Half-life, in images, of the moving average; by default 180000, guides 20000, features 10000."
    ),
    seed: int = typer.Option(0, help="Seed of weights, noise and order of images."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the checkpoint in the folder."),
    device: str = typer.Option("auto", help="cpu, cuda, or auto: a GPU where there is one."),
    background: bool = typer.Option(
        False, "--background", help="Every other program goes first; goes on from the folder's checkpoint, without end."
    ),
    network: str = typer.Option("cifar10", help="For guides: the denoiser whose drawings it shall know."),
    drawn: str = typer.Option(".runs/drawn", help="For guides: the folder that keeps the drawings."),
    pictures: int = typer.Option(12_000, help="For guides: how many drawings; missing ones are drawn first."),
) -> None:
    """Train a network on CIFAR-10; better weights need a GPU and some hours.

    diffnum train --minutes 30 --out .runs/mine

    diffnum sample --network .runs/mine/mine.safetensors

    A guide for the shipped denoiser, and a run that takes only what other programs leave, until SIGTERM, Ctrl-C or a
    file NAME.stop in the folder; the same command goes on from there:

    diffnum train --kind guide --init cifar10 --minutes 60 --out .runs/guide

    diffnum train --init cifar10 --lr 1e-3 --background --out .runs/better
    """
    from diffnum.images.background import told
    from diffnum.images.processes import quiet

    with told():  # from before torch is loaded
        where = None if device == "auto" else str(make_device(device))
        from diffnum.images.train import train as run

        path = run(
            data, out, kind, minutes=minutes, images=images, size=size, init=init, batch=batch, lr=lr, warmup=warmup,
            average=average, seed=seed, resume=resume, device=where, background=background, network=network,
            drawn=drawn, pictures=pictures,
        )  # fmt: skip
    if not quiet():
        print(f"-> {path}")
