"""Images of a recipe in a folder: batch by batch, each file whole or not there, and a manifest of all of them.

A *recipe* is a dict of plain values that decides the images (:func:`diffnum.images.quality.recipe`); its checksum names
the folder. A file ``000050.npz`` holds the images from number 50 on, a whole batch, with the recipe and their place in
it. The manifest, ``manifest.json``, lists the files with their images, evaluations, lost images, and checksum of the
pixels. It is written by one process alone, after the files: at no time does it list one that is not there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffnum import files
from diffnum.errors import DiffnumError

FOLDER = ".runs/quality"
MANIFEST = "manifest.json"
ENTRY = {"file": str, "first": int, "images": int, "nfe": int, "lost": int, "sha256": str}  # a line of it


@dataclass(frozen=True)
class Shard:
    """A file of images: the first of them, all of them (n, 32, 32, 3) uint8, which are finite (n,), evaluations."""

    first: int
    images: np.ndarray
    finite: np.ndarray
    nfe: int

    @property
    def entry(self) -> dict[str, Any]:
        """Its line in the manifest."""
        return {
            "file": name(self.first), "first": self.first, "images": len(self.images), "nfe": self.nfe,
            "lost": int((~self.finite).sum()), "sha256": hashlib.sha256(self.images.tobytes()).hexdigest(),
        }  # fmt: skip


def name(first: int) -> str:
    """The file of the images from this number on."""
    return f"{first:06d}.npz"


def text(recipe: dict[str, Any]) -> str:
    """The recipe as its files hold it."""
    return json.dumps(recipe, sort_keys=True)


def home(recipe: dict[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Where the images of a recipe are kept."""
    digest = hashlib.sha256(text(recipe).encode()).hexdigest()
    return files.place(folder) / f"{recipe['solver']}-{digest[:12]}"


def drawn(recipe: dict[str, Any], folder: str | os.PathLike[str] = FOLDER) -> int:
    """How many images of a recipe, from the first on, ``folder`` holds."""
    kept, n = home(recipe, folder), 0
    while (kept / name(n)).is_file():
        n += recipe["batch"]
    return n


def prepare(recipe: dict[str, Any], n: int, folder: str | os.PathLike[str]) -> list[int]:
    """Make the folder ready for n images of a recipe; the first numbers of the files that it lacks.

    What a killed run left half written is removed, and the manifest lists what is there, no more.

    Raises:
        DiffnumError: the folder cannot be written.
    """
    kept = home(recipe, folder)
    try:
        kept.mkdir(parents=True, exist_ok=True)
        files.sweep(kept)
        _list(recipe, kept, {})
    except OSError as error:
        raise DiffnumError(f"folder={str(folder)!r}: cannot write there ({error.strerror}); choose another") from None
    return [first for first in range(0, n, recipe["batch"]) if not (kept / name(first)).exists()]


def write(recipe: dict[str, Any], folder: str | os.PathLike[str], shard: Shard) -> None:
    """Write a file of images, whole or not at all."""
    about: dict[str, Any] = {**vars(shard), "recipe": text(recipe)}
    files.write(home(recipe, folder) / name(shard.first), lambda stream: np.savez(stream, **about))


def read(recipe: dict[str, Any], n: int, folder: str | os.PathLike[str], some: range | None = None) -> Iterator[Shard]:
    """The files of the first n images, one after the other, each cut where the images end; ``some`` of them by number.

    Raises:
        DiffnumError: a file is missing, damaged, of another recipe or another place, or not what the manifest lists.
    """
    kept, size = home(recipe, folder), recipe["batch"]
    listed = manifest(recipe, folder)
    starts = range(0, n, size)
    for first in starts if some is None else (starts[i] for i in some):
        shard = _read(kept / name(first), recipe, first, listed.get(name(first)))
        rows = slice(n - first)
        yield Shard(first, shard.images[rows], shard.finite[rows], shard.nfe)


def manifest(recipe: dict[str, Any], folder: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The lines of the manifest by file; none where it is missing, or no manifest of this recipe."""
    try:
        found = json.loads(files.read(home(recipe, folder) / MANIFEST))
        lines = {entry["file"]: entry for entry in found["shards"]}
        whole = all(type(e[key]) is kind for e in lines.values() for key, kind in ENTRY.items())
        return lines if found["recipe"] == recipe and whole else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def enter(recipe: dict[str, Any], n: int, folder: str | os.PathLike[str]) -> tuple[int, int, str]:
    """Check the files of the first n images and list them: evaluations, how many images are lost, and their checksum.

    One file at a time is in memory.

    Raises:
        DiffnumError: as :func:`read`.
    """
    kept, size, nfe, lost, digest = home(recipe, folder), recipe["batch"], 0, 0, hashlib.sha256()
    before, new = manifest(recipe, folder), {}
    for first in range(0, n, size):
        shard = _read(kept / name(first), recipe, first, before.get(name(first)))
        new[name(first)] = shard.entry
        rows = slice(n - first)
        digest.update(shard.images[rows].tobytes())
        nfe, lost = shard.nfe, lost + int((~shard.finite[rows]).sum())
    _list(recipe, kept, new)
    return nfe, lost, digest.hexdigest()


def _list(recipe: dict[str, Any], kept: Path, new: dict[str, dict[str, Any]]) -> None:
    """Write the manifest: what it listed before and what is new, as far as the files are there."""
    lines = {**manifest(recipe, kept.parent), **new}
    there = sorted((lines[file] for file in lines if (kept / file).is_file()), key=lambda entry: entry["first"])
    found = {"recipe": recipe, "images": sum(entry["images"] for entry in there), "shards": there}
    content = json.dumps(found, indent=1) + "\n"
    files.write(kept / MANIFEST, lambda file: file.write(content.encode()))


def _read(file: Path, recipe: dict[str, Any], first: int, listed: dict[str, Any] | None) -> Shard:
    size = recipe["batch"]
    try:
        with np.load(io.BytesIO(files.read(file))) as stored:
            if str(stored["recipe"]) != text(recipe) or int(stored["first"]) != first:
                raise ValueError("it was written for another recipe or another place")
            for part, shape, kind in (("images", (size, 32, 32, 3), np.uint8), ("finite", (size,), np.bool_)):
                if stored[part].shape != shape or stored[part].dtype != kind:
                    raise ValueError(f"its {part} are {stored[part].dtype} of shape {stored[part].shape}")
            shard = Shard(first, stored["images"], stored["finite"], int(stored["nfe"]))
        if listed is not None and listed["sha256"] != shard.entry["sha256"]:
            raise ValueError("its images are not those that the manifest lists")
    except Exception as error:  # numpy and zipfile raise many kinds for a flipped bit; the remedy is one
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise DiffnumError(f"{file} is damaged ({reason}); delete it, and it is drawn again") from None
    return shard
