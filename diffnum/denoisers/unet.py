"""The U-Net of the shipped networks, in any size: residual blocks with a noise embedding, attention at low resolution.

Input and output are (batch, 3, H, W) of unit variance; what they mean is the business of the denoisers in
:mod:`diffnum.denoisers.network`. All operations are smooth, so float64 runs show convergence orders. The design is
that of Ho et al. (2020, arXiv:2006.11239), after a pixel-unshuffle by 2 that makes it fast on a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


@dataclass(frozen=True)
class Config:
    """Size of the U-Net: channels and attention per level (16, 8, 4 pixels), blocks per level, blocks in the middle."""

    channels: tuple[int, ...] = (64, 128, 128)
    attention: tuple[bool, ...] = (False, True, True)
    blocks: int = 1
    middle: int = 2
    embedding: int = 256
    frequencies: int = 32
    heads: int = 4
    patch: int = 2
    colours: int = 3

    def __post_init__(self) -> None:
        """Refuse sizes of no network, before one is built: a damaged file may claim any."""
        widths = (*self.channels, self.embedding, self.frequencies, self.heads, self.patch, self.colours)
        counts = (len(self.channels), self.blocks, self.middle)
        whole = all(type(n) is int and 1 <= n <= 4096 for n in widths) and all(type(n) is int for n in counts)
        if not (whole and all(1 <= n <= 64 for n in counts) and len(self.attention) == len(self.channels)):
            raise ValueError(f"{self} is no size of a network")
        if any(width % self.heads for width, used in zip(self.channels, self.attention, strict=True) if used):
            raise ValueError(f"channels {self.channels} must be multiples of heads={self.heads}")

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Config:
        """Read back ``asdict(config)`` after a trip through JSON, which the weight file carries in its metadata."""
        return cls(**{**d, "channels": tuple(d["channels"]), "attention": tuple(d["attention"])})

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Config:
        """Read the size off the tensor names and shapes, for a file without metadata (heads are then taken as 4)."""
        levels = 1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("down."))
        return cls(
            channels=tuple(tensors[f"down.{i}.0.0.conv0.weight"].shape[0] for i in range(levels)),
            attention=tuple(f"down.{i}.0.0.qkv.weight" in tensors for i in range(levels)),
            blocks=1 + max(int(k.split(".")[3]) for k in tensors if k.startswith("down.0.0.")),
            middle=1 + max(int(k.split(".")[1]) for k in tensors if k.startswith("mid.")),
            embedding=tensors["embed.0.weight"].shape[0],
            frequencies=tensors["freq"].shape[0],
            patch=math.isqrt(tensors["stem.weight"].shape[1] // 3),
        )


class Block(nn.Module):
    """Residual block with an affine noise embedding and optional self-attention over the pixels."""

    def __init__(self, cin: int, cout: int, embedding: int, heads: int, attention: bool) -> None:
        super().__init__()
        self.norm0, self.conv0 = nn.GroupNorm(min(32, cin // 4), cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * cout)
        self.norm1, self.conv1 = nn.GroupNorm(min(32, cout // 4), cout), nn.Conv2d(cout, cout, 3, padding=1)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()
        self.heads = heads if attention else 0
        if attention:
            self.norm2, self.qkv = nn.GroupNorm(min(32, cout // 4), cout), nn.Conv2d(cout, 3 * cout, 1)
            self.proj = nn.Conv2d(cout, cout, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (B, cin, h, w), e (B, embedding) -> (B, cout, h, w)."""
        h = self.conv0(fn.silu(self.norm0(x)))
        a, b = self.affine(e)[:, :, None, None].chunk(2, 1)
        x = self.skip(x) + self.conv1(fn.silu(self.norm1(h) * (1 + a) + b))
        if self.heads:
            n, c, height, width = x.shape
            q, k, v = self.qkv(self.norm2(x)).reshape(n, 3, self.heads, c // self.heads, -1).transpose(-1, -2).unbind(1)
            h = fn.scaled_dot_product_attention(q, k, v)  # scale 1/sqrt(channels per head)
            x = x + self.proj(h.transpose(-1, -2).reshape(n, c, height, width))
        return x


class Encoder(nn.Module):
    """The first half of the U-Net: noise embedding, stem, the levels on the way down and the blocks in the middle.

    The label enters as sines and cosines of ``freq`` times it. New networks draw these frequencies from a Gaussian, as
    Karras et al. (2022, arXiv:2206.00364) do; they are stored with the weights, and those of the shipped networks are
    geometric.
    """

    freq: Tensor

    def __init__(self, config: Config = Config()) -> None:
        super().__init__()
        c, ch = config, config.channels
        self.config = config
        self.register_buffer(
            "freq", torch.randn(c.frequencies, generator=torch.Generator().manual_seed(0), device="cpu") * 4
        )
        self.embed = nn.Sequential(
            nn.Linear(2 * c.frequencies, c.embedding), nn.SiLU(), nn.Linear(c.embedding, c.embedding), nn.SiLU()
        )
        self.stem = nn.Conv2d(c.colours * c.patch**2, ch[0], 3, padding=1)
        self.down, self.skips, now = nn.ModuleList(), [ch[0]], ch[0]  # skips: channels that the way up finds stacked
        for i, width in enumerate(ch):
            blocks = nn.ModuleList()
            for _ in range(c.blocks):
                blocks.append(self.block(now, i))
                now = width
                self.skips.append(now)
            level = nn.ModuleList([blocks])
            if i + 1 < len(ch):
                level.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                self.skips.append(now)
            self.down.append(level)
        self.mid = nn.ModuleList(Block(now, now, c.embedding, c.heads, j % 2 == 0) for j in range(c.middle))

    def block(self, cin: int, i: int) -> Block:
        """A block of level i for cin channels."""
        c = self.config
        return Block(cin, c.channels[i], c.embedding, c.heads, c.attention[i])

    def encode(self, x: Tensor, a: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """x (B, 3, H, W), a (B,) or (1,) -> the output of the middle, the stack of all before it, the embedding."""
        p = a[:, None] * self.freq
        e = self.embed(torch.cat([p.cos(), p.sin()], 1))
        x = self.stem(fn.pixel_unshuffle(x, self.config.patch))
        stack = [x]
        level: Any
        for level in self.down:
            for block in level[0]:
                stack.append(x := block(x, e))
            if len(level) > 1:
                stack.append(x := level[1](x))
        for block in self.mid:
            x = block(x, e)
        return x, stack, e


class UNet(Encoder):
    """F(x, a): the raw network. x is scaled to unit variance, a = ln(sigma)/4 is the noise label of each row."""

    def __init__(self, config: Config = Config()) -> None:
        super().__init__(config)
        c, ch = config, config.channels
        self.up, stack, now = nn.ModuleList(), list(self.skips), ch[-1]
        for i, width in reversed(list(enumerate(ch))):
            blocks = nn.ModuleList()
            for _ in range(c.blocks + 1):
                blocks.append(self.block(now + stack.pop(), i))
                now = width
            level = nn.ModuleList([blocks])
            if i > 0:
                level.append(nn.Conv2d(now, now, 3, padding=1))
            self.up.append(level)
        self.norm, self.out = nn.GroupNorm(16, now), nn.Conv2d(now, c.colours * c.patch**2, 3, padding=1)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """x (B, 3, H, W) of unit variance, a (B,) or (1,) -> F (B, 3, H, W)."""
        x, stack, e = self.encode(x, a)
        level: Any
        for level in self.up:
            for block in level[0]:
                x = block(torch.cat([x, stack.pop()], 1), e)
            if len(level) > 1:
                x = level[1](fn.interpolate(x, scale_factor=2.0, mode="nearest"))
        return fn.pixel_shuffle(self.out(fn.silu(self.norm(x))), self.config.patch)
