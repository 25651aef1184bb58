"""Options that several commands have, each written once; a command gives the default."""

from typing import Annotated

import typer

from diffnum.named import GRIDS, PROCESSES

Process = Annotated[
    str, typer.Option(help=f"Noising process: {', '.join(PROCESSES)}. One network serves all but blurring.")
]
Grid = Annotated[str, typer.Option(help=f"Where the steps stand: {', '.join(GRIDS)}.")]
SmoothGrid = Annotated[str, typer.Option(help=f"Where the steps stand: {', '.join(GRIDS[:-1])}.")]
End = Annotated[float | None, typer.Option(help="Last time. By default 0.001 (VP) or 0.002 (VE), almost no noise.")]
Denoise = Annotated[bool, typer.Option(help="End with the predicted clean image: one more evaluation.")]
Target = Annotated[str, typer.Option(help="Exact problem in R^4: smooth (a mixture), thin (on planes), gaussian.")]
Settings = Annotated[list[str], typer.Option(help="Option of the solver as key=value; repeat for several.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ..., or auto: a GPU where there is one.")]
Half = Annotated[bool, typer.Option(help="Evaluate the network in bfloat16: faster, and wrong by about 1 %.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network: a minute at first, faster after it.")]
Network = Annotated[str, typer.Option(help="A shipped network, or a .safetensors file of `diffnum train`.")]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Guide the network with this weight: 1 estimates the posterior mean, 2 to 3 make clearer pictures."
    ),
]
Label = Annotated[
    list[str],
    typer.Option(help="Guide to this class; repeat for several, or all, which are taken in turn. Needs --guidance."),
]
