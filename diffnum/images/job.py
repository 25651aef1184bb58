"""A run of training: steps, moving average, log, validation, checkpoints, and the model card."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diffnum.errors import DiffnumError
from diffnum.files import write, write_together
from diffnum.images.background import Stopping
from diffnum.images.checkpoint import Run
from diffnum.images.provenance import code_version


@dataclass
class Job:
    """A run with all that it needs; ``place`` is its folder and name."""

    run: Run
    task: Any
    settings: dict[str, Any]
    place: Path
    stopping: Stopping
    where: torch.device
    rank: int
    world: int
    minutes: float | None
    background: bool
    amp: bool
    compile: bool
    save_every: float
    validate_every: float
    validation_images: int
    progress: bool

    def go(self) -> None:
        """Train to the end of the budget; validate, and write weights, card, log and checkpoint."""
        run, save = self.run, self.place.parent / f"{self.place.name}.checkpoint.safetensors"
        self.forward = torch.compile(run.net) if self.compile else run.net
        self.stopping.save = lambda: self.save(save) if self.rank == 0 else ""
        end, total = (self.minutes or math.inf) * 60, self.settings["images"] or math.inf
        saved = checked = time.monotonic()

        def done() -> float:
            return max(run.seconds / end, run.images / total)

        # rank 0 decides when the time is up, so that all processes do the same number of steps
        with _Bar(self.progress and self.rank == 0, run, min(1.0, done()), 600 if self.background else 60) as show:
            while (part := done()) < 1:
                tick = time.monotonic()
                rate, losses = self.step(0.0 if self.background else part)
                run.seconds = _agree(run.seconds + time.monotonic() - tick, self.world, self.where)
                if self.rank:
                    continue
                show(part, losses, run)
                due = (now := time.monotonic()) - checked > self.validate_every
                if due or now - saved > self.save_every:
                    if not all(bool(p.isfinite().all()) for p in run.net.parameters()):
                        raise self.diverged()
                    last = run.log[-1]["seconds"] if run.log else 0.0
                    if due or run.seconds > 1.01 * last:  # a run of days has hundreds of entries, not thousands
                        self.record(rate)
                    if due:
                        self.publish(self.validation_images)
                        checked = time.monotonic()
                    self.save(save)
                    saved = time.monotonic()
        if self.rank == 0:
            if run.bins or not run.log:  # a run that was killed after its last step has nothing to add
                self.record(0.0)
            self.save(save)
            self.publish(None)
            self.save(save)

    def step(self, part: float) -> tuple[float, Tensor]:
        """A step of training at this part of the cosine: the rate, and the losses of its images."""
        run, given, device = self.run, self.settings, self.where
        rate = given["lr"] * min(1.0, (run.step + 1) / given["warmup"]) * 0.5 * (1 + math.cos(math.pi * part))
        generator = torch.Generator(device).manual_seed((given["seed"] * 1_000_003 + run.step) * 1024 + self.rank)
        batch, n = given["batch"], given["batch"] // self.world

        def forward(*inputs: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.amp):  # the network alone: a DCT needs digits
                return self.forward(*inputs)

        losses, levels = self.task.loss(forward, n, generator, run.images + self.rank * n, given["seed"])
        run.optimiser.zero_grad(set_to_none=True)
        losses.mean().backward()
        if self.world > 1:
            _average_gradients(run.net, self.world)
        with self.stopping.lock:  # what is written down on a request to stop is the state between two steps
            torch.nn.utils.clip_grad_norm_(run.net.parameters(), self.task.clip)
            for group in run.optimiser.param_groups:
                group["lr"] = rate * group.get("scale", 1.0)
            run.optimiser.step()
            run.step, run.images = run.step + 1, run.images + batch
            # a short run must not average over its start: at most a tenth of what has been seen
            decay = 0.5 ** (batch / min(given["average"], 0.1 * run.images + batch))
            with torch.no_grad():
                torch._foreach_lerp_(list(run.average.parameters()), list(run.net.parameters()), 1 - decay)
                for kept, new in zip(run.average.buffers(), run.net.buffers(), strict=True):
                    kept.copy_(new)
            if run.step % 20 == 0 or device.type == "cpu":
                for bin_, loss in zip(levels.log2().floor().int().tolist(), losses.tolist(), strict=True):
                    entry = run.bins.setdefault(str(2.0**bin_), [0.0, 0])
                    entry[0], entry[1] = entry[0] + loss, entry[1] + 1
                if not math.isfinite(sum(total for total, _ in run.bins.values())):
                    raise self.diverged()
        return rate, losses

    def record(self, rate: float) -> None:
        """Add an entry to the log: where the run is, and the mean loss at every noise level since the last one."""
        run = self.run
        loss = {level: run.bins[level][0] / run.bins[level][1] for level in sorted(run.bins, key=float)}
        with self.stopping.lock:
            run.log.append({"images": run.images, "seconds": run.seconds, "rate": rate, "loss": loss})
            run.bins = {}

    def save(self, path: Path) -> str:
        """Write the checkpoint; what a request to stop says of it."""
        with self.stopping.lock:
            blob = self.run.blob(self.settings, self.background)
        write(path, lambda file: file.write(blob))
        return f"after {self.run.images:,} images; the same command goes on from {path}"

    def publish(self, count: int | None) -> None:
        """Validate what would be shipped, half precision included, and write weights, card and log of this moment."""
        run = self.run
        blob = self.task.blob(run.average)
        rows = self.task.validate(blob, count)
        with self.stopping.lock:
            run.log[-1]["validation"] = rows
        name, cuda = self.place.name, self.where.type == "cuda"
        device = torch.cuda.get_device_name(self.where) if cuda else f"CPU, {os.cpu_count()} cores"
        card = {
            "name": name, "kind": self.settings["kind"], "sha256": hashlib.sha256(blob).hexdigest(),
            "params": sum(v.numel() for v in run.net.state_dict().values()),
            "images": run.images + run.before, "images_this_run": run.images, "minutes": run.seconds / 60,
            "settings": {**self.settings, "minutes": self.minutes}, "background": self.background,
            "data": self.task.about, "device": device, "amp": self.amp, "processes": self.world,
            "torch": torch.__version__, "version": code_version(), "validation": rows, **self.task.card,
        }  # fmt: skip
        write_together(
            {
                self.place.parent / f"{name}.log.json": json.dumps(run.log).encode(),
                self.place.parent / f"{name}.safetensors": blob,
                self.place.parent / f"{name}.json": json.dumps(card, indent=1).encode(),
            }
        )

    def diverged(self) -> DiffnumError:
        """What ends a run that has NaN or infinity somewhere."""
        return DiffnumError(
            f"not finite at step {self.run.step}; the checkpoint, if there is one, is of before: resume with a lower "
            f"lr (now {self.settings['lr']:g})"
        )


def _average_gradients(net: torch.nn.Module, world: int) -> None:
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, (flat / world).split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def _agree(seconds: float, world: int, where: torch.device) -> float:
    if world == 1:
        return seconds
    value = torch.tensor([seconds], dtype=torch.float64, device=where)
    dist.broadcast(value, 0)
    return float(value)


class _Bar:
    """Progress with loss and images per second, on a terminal; a plain line a minute elsewhere."""

    def __init__(self, on: bool, run: Run, done: float, every: float) -> None:
        self.on, self.start, self.images, self.told, self.done = on, time.monotonic(), run.images, 0.0, done
        self.every = every  # seconds from line to line

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bar: Any = None
        if self.on and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console)
            self.bar.start()
            self.task = self.bar.add_task("training", total=1.0, completed=self.done)

        def show(done: float, losses: Tensor, run: Run) -> None:
            now = time.monotonic()
            if not self.on or now - self.told < (1 if self.bar else self.every):
                return
            self.told = now
            speed = (run.images - self.images) / (now - self.start)
            text = f"{run.images:,} images, {speed:,.0f}/s, loss {float(losses.detach().mean()):.4f}"
            if self.bar:
                self.bar.update(self.task, completed=done, description=text)
            else:
                print(f"{100 * done:5.1f} %  {text}", flush=True)

        return show

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()
