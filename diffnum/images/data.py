"""CIFAR-10 as arrays (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

The data set is not part of this package. :func:`cifar10` finds it in a folder (argument ``root`` or the environment
variable ``DIFFNUM_DATA``) or downloads the canonical archive once and verifies it. It understands

- ``cifar-10-python.tar.gz``, the canonical archive, or its extracted folder ``cifar-10-batches-py``: exact pixels;
- a tree ``train/<class>/*.jpg|png`` and ``test/<class>/*``, as a folder or a zip: what others often pass on. Its pixels
  count as exact if every file is a PNG;
- ``cifar10-lossless.npz`` with ``train_x``, ``train_y``, ``test_x``, ``test_y``: exact pixels of a subset;
- ``cifar10-pack.tar``, written by :func:`pack`: JPEG copies and exact pixels in one small file that travels.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from diffnum.denoisers.guide import NAMES
from diffnum.errors import DiffnumError
from diffnum.files import write

CLASSES = NAMES
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE, FOLDER, LOSSLESS, PACK = (
    "cifar-10-python.tar.gz",
    "cifar-10-batches-py",
    "cifar10-lossless.npz",
    "cifar10-pack.tar",
)
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Images:
    """Images (N, 32, 32, 3) uint8 with labels (N,), whether the pixels are exact, and the file they came from."""

    images: np.ndarray
    labels: np.ndarray
    exact: bool
    source: str

    def __len__(self) -> int:
        return len(self.images)

    def tensor(self, rows: Any = slice(None), dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Images in [-1, 1], channels first: (n, 3, 32, 32)."""
        x = torch.from_numpy(np.ascontiguousarray(self.images[rows]))
        return x.permute(0, 3, 1, 2).to(dtype).contiguous() / 127.5 - 1

    @property
    def sha256(self) -> str:
        """Checksum of the pixels, which a model card records."""
        return hashlib.sha256(self.images.tobytes()).hexdigest()


def cifar10(root: str | os.PathLike[str] | None = None, split: str = "train", exact: bool = False) -> Images:
    """The ``train`` (50,000) or ``test`` (10,000) images; ``exact=True`` takes exact pixels only, a subset if need be.

    ``root`` is a folder or file as described at the top of this module; default: the environment variable
    ``DIFFNUM_DATA``, else the cache folder, into which the archive is downloaded when it is not there.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    given = root if root is not None else os.environ.get("DIFFNUM_DATA")
    place = Path(given) if given else cache()
    if given and not place.exists():
        raise DiffnumError(f"the data folder {place} does not exist; {_advice()}")
    found = _find(place, split, exact)
    if found is None:
        if given:
            kind = "exact-pixel CIFAR-10" if exact else "CIFAR-10"
            raise DiffnumError(f"no {kind} images under {place}; {_advice()}")
        _download(place)
        found = _find(place, split, exact)
        assert found is not None
    return found


def cache() -> Path:
    """Folder for downloads and decoded arrays: ``DIFFNUM_CACHE``, or the user's cache folder."""
    import pooch

    return Path(os.environ.get("DIFFNUM_CACHE") or pooch.os_cache("diffnum"))


def _advice() -> str:
    return (
        f"download {URL} in a browser (md5 {MD5}), put {ARCHIVE} unopened into a folder, "
        "and name that folder with root=, --data or the environment variable DIFFNUM_DATA"
    )


def _download(folder: Path) -> None:
    import pooch

    try:
        pooch.retrieve(URL, known_hash=f"md5:{MD5}", fname=ARCHIVE, path=folder, progressbar=False)
    except Exception as error:  # requests, urllib and ssl each bring their own; the remedy is one
        reason = type(error).__name__
        raise DiffnumError(
            f"CIFAR-10 is not on this machine and cannot be downloaded ({reason}); {_advice()}"
        ) from None


def _find(place: Path, split: str, exact: bool) -> Images | None:
    """First usable source at ``place``, exact and complete ones first."""
    inside = [place] if place.is_file() else sorted(p for p in place.iterdir()) if place.is_dir() else []
    by_name = {p.name: p for p in inside}
    if place.is_dir() and place.name == FOLDER:
        by_name[FOLDER] = place
    if ARCHIVE in by_name or place.name.endswith(".tar.gz"):
        path = by_name.get(ARCHIVE, place)
        return _cached(path, split, lambda: _batches(_tar_members(path), split), exact=True)
    if FOLDER in by_name:
        folder = by_name[FOLDER]
        return _cached(
            folder, split, lambda: _batches(((p.name, p.read_bytes()) for p in folder.iterdir()), split), True
        )
    if PACK in by_name:
        path = by_name[PACK]
        exact = exact or split == "test"  # its test images are exact ones only
        return _cached(path, f"{split}-exact" if exact else split, lambda: _unpack(path, split, exact), exact)
    if place.is_dir() and (place / split).is_dir():
        tree = place / split
        files = [p for p in sorted(tree.glob("*/*")) if p.name.lower().endswith(PICTURES)]
        lossless = all(p.suffix.lower() == ".png" for p in files)
        if files and (lossless or not exact):
            members = ((f"{split}/{p.parent.name}/{p.name}", p.read_bytes()) for p in files)
            return _cached(tree, split, lambda: _decode(members), lossless)
    for path in (p for p in inside if p.suffix == ".zip"):
        names = _pictures(path, split)
        lossless = all(name.lower().endswith(".png") for name in names)
        if names and (lossless or not exact):
            return _cached(path, split, lambda: _decode(_zip_members(path, names)), lossless)  # noqa: B023
    if LOSSLESS in by_name:
        with _reading(by_name[LOSSLESS]), np.load(by_name[LOSSLESS]) as z:
            return Images(z[f"{split}_x"], z[f"{split}_y"].astype(np.int64), True, LOSSLESS)
    return None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """One error for every kind of damage: zip, tar, pickle, lzma and Pillow raise a dozen types for a flipped bit."""
    try:
        yield
    except DiffnumError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DiffnumError(f"{path} cannot be read as CIFAR-10 ({reason}); copy or download it again") from None


def _pictures(path: Path, split: str) -> list[str]:
    """Names of the pictures of a split in a zip of class folders."""
    with _reading(path), zipfile.ZipFile(path) as z:
        return sorted(n for n in z.namelist() if f"/{split}/" in f"/{n}" and n.lower().endswith(PICTURES))


def _cached(path: Path, key: str, read: Any, exact: bool) -> Images:
    """Decode once; keep the arrays beside the downloads under a name that changes when the source does."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    state = [(p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    tag = hashlib.sha256(f"{path.resolve()}|{state}|{key}".encode()).hexdigest()[:16]
    file = cache() / "decoded" / f"cifar10-{key}-{tag}.npz"
    if file.is_file():
        try:
            with np.load(file) as z:
                return Images(z["images"], z["labels"], exact, path.name)
        except Exception:  # as many kinds as in `_reading`
            pass  # an interrupted disk; decode anew
    with _reading(path):
        images, labels = read()
    if len(images) == 0:
        raise DiffnumError(f"{path} holds no {key} images of 32x32 pixels; {_advice()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, lambda f: np.savez(f, images=images, labels=labels))
    except OSError:
        pass  # a read-only home costs time, not the run
    return Images(images, labels, exact, path.name)


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if digest != MD5:
        raise DiffnumError(f"{path} has md5 {digest}, expected {MD5}: the download is incomplete; {_advice()}")
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is not None:
                yield Path(member.name).name, stream.read()


class _Numpy(pickle.Unpickler):
    """The canonical batches are pickles: allow the few names that arrays of bytes need and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype")) or module == "_codecs":
            return super().find_class(module, name)
        raise ValueError(f"unexpected {module}.{name} inside a CIFAR-10 batch")


def _batches(members: Iterable[tuple[str, bytes]], split: str) -> tuple[np.ndarray, np.ndarray]:
    wanted = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    files = {name: blob for name, blob in members if name in wanted}
    if missing := [name for name in wanted if name not in files]:
        raise ValueError(f"missing {', '.join(missing)}")
    batches = [_Numpy(io.BytesIO(files[name]), encoding="bytes").load() for name in wanted]
    images = np.concatenate([b[b"data"] for b in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.concatenate([b[b"labels"] for b in batches]).astype(np.int64)


def _zip_members(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as z:
        for name in names:
            yield name, z.read(name)


def _decode(members: Iterable[tuple[str, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures named .../<class>/<file> -> arrays; the label is the class's place in the alphabet."""
    from PIL import Image

    images, labels = [], []
    for name, blob in members:
        if name.lower().endswith(PICTURES):
            pixels = np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))
            if pixels.shape != (32, 32, 3):
                raise ValueError(f"{name} has shape {pixels.shape}, expected 32x32 RGB")
            images.append(pixels)
            labels.append(Path(name).parent.name)
    order = {c: i for i, c in enumerate(sorted(set(labels) | (set(CLASSES) if set(labels) <= set(CLASSES) else set())))}
    stack = np.stack(images) if images else np.zeros((0, 32, 32, 3), np.uint8)
    return stack, np.array([order[c] for c in labels], np.int64)


# ---------------------------------------------------------------------------------------- a pack that travels


def pack(folder: str | os.PathLike[str] = ".pack", root: str | os.PathLike[str] | None = None) -> Path:
    """Write what a training machine needs that cannot download anything: ``cifar10-pack.tar`` (30 MB), and the code.

    The file holds the pictures of a class-folder zip joined and xz-compressed together, since their headers repeat
    (half of their size), and the exact-pixel subset as lossless WebP sheets; with the canonical archive copy that
    instead. Beside it lies the package without its weights, so that ``python -m diffnum.images.train --data .`` runs
    there.
    """
    from PIL import Image

    given = root if root is not None else os.environ.get("DIFFNUM_DATA")
    place = Path(given) if given else cache()
    zips = sorted(place.glob("*.zip")) if place.is_dir() else [place]
    if not zips or not zips[0].is_file():
        raise DiffnumError(f"no zip of class folders under {place} to pack; {_advice()}")
    names = _pictures(zips[0], "train")
    with _reading(zips[0]):
        blobs = [blob for _, blob in _zip_members(zips[0], names)]
    listing = "\n".join(f"{n} {len(b)}" for n, b in zip(names, blobs, strict=True)).encode()
    parts = {"names.xz": lzma.compress(listing), "pictures.xz": lzma.compress(b"".join(blobs), preset=6)}
    for split in ("train", "test"):
        exact = cifar10(place, split, exact=True)
        padded = np.zeros((-len(exact) % 64 + len(exact), 32, 32, 3), np.uint8)
        padded[: len(exact)] = exact.images
        sheet = padded.reshape(-1, 64, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 2048, 3)
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "WEBP", lossless=True, quality=60, method=4)
        parts[f"{split}.webp"] = buffer.getvalue()
        parts[f"{split}.labels"] = exact.labels.astype(np.uint8).tobytes()
    target = Path(folder) / PACK
    target.parent.mkdir(parents=True, exist_ok=True)

    def content(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, blob in parts.items():
                info = tarfile.TarInfo(name)
                info.size = len(blob)
                tar.addfile(info, io.BytesIO(blob))

    code = Path(__file__).parents[1]
    skip = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(code, target.parent / code.name, ignore=skip, dirs_exist_ok=True)
    return write(target, content)


def _unpack(path: Path, split: str, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    def read(tar: tarfile.TarFile, name: str) -> bytes:
        stream = tar.extractfile(name)
        assert stream is not None
        return stream.read()

    with tarfile.open(path) as tar:
        if exact or split == "test":
            labels = np.frombuffer(read(tar, f"{split}.labels"), np.uint8).astype(np.int64)
            sheet = np.asarray(Image.open(io.BytesIO(read(tar, f"{split}.webp"))).convert("RGB"))
            images = sheet.reshape(-1, 32, 64, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
            return np.ascontiguousarray(images[: len(labels)]), labels
        listing = lzma.decompress(read(tar, "names.xz")).decode().splitlines()
        joined = io.BytesIO(lzma.decompress(read(tar, "pictures.xz")))
    pairs = (line.rsplit(" ", 1) for line in listing)
    return _decode((name, joined.read(int(size))) for name, size in pairs)
