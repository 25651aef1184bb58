"""CIFAR-10 as arrays (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

The data set is not part of this package. :func:`cifar10` finds it in a folder (argument ``root`` or the environment
variable ``DIFFNUM_DATA``) or downloads the canonical archive once and verifies it. It understands

- ``cifar-10-python.tar.gz``, the canonical archive, or its extracted folder ``cifar-10-batches-py``: exact pixels;
- a tree ``train/<class>/*.jpg|png`` and ``test/<class>/*``, as a folder or a zip: what others often pass on. Classes go
  by their names or by 0 to 9; hidden folders and those of Apple's archives are passed over, others are refused. Its
  pixels count as exact if every file is a PNG;
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
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch

from diffnum.denoisers.guide import NAMES
from diffnum.errors import DiffnumError
from diffnum.files import place as placed
from diffnum.files import read, write

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
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
FORMAT = 3  # of decoded arrays in the cache; what an earlier version decoded is decoded anew


@dataclass(frozen=True)
class Images:
    """Images (N, 32, 32, 3) uint8 with labels (N,), whether the pixels are exact, and the file they came from.

    Raises:
        DiffnumError: anything else, an empty set, or labels that are not one of 0 to 9 for each image.
    """

    images: np.ndarray
    labels: np.ndarray
    exact: bool
    source: str

    def __post_init__(self) -> None:
        x, y = self.images, self.labels
        if x.dtype != np.uint8 or x.shape[1:] != (32, 32, 3) or not len(x):
            found = f"images {x.dtype} of shape {x.shape}, not uint8 (N, 32, 32, 3)"
        elif y.dtype.kind not in "iu" or y.shape != (len(x),) or y.min() < 0 or y.max() >= len(CLASSES):
            found = f"labels {y.dtype} of shape {y.shape} for {len(x)} images, not a whole number from 0 to 9 for each"
        else:
            object.__setattr__(self, "labels", y.astype(np.int64))
            return
        raise DiffnumError(f"{self.source} is no CIFAR-10: it has {found}; {_advice()}")

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
    place = placed(given) if given else cache()
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
    if given := os.environ.get("DIFFNUM_CACHE"):
        return placed(given)
    import pooch

    return Path(pooch.os_cache("diffnum"))


def _advice() -> str:
    return (
        f"download {URL} in a browser (md5 {MD5}), put {ARCHIVE} unopened into a folder, "
        "and name that folder with root=, --data or the environment variable DIFFNUM_DATA"
    )


def _download(folder: Path) -> None:
    import pooch

    bar: Any = _Download()
    try:
        pooch.retrieve(URL, known_hash=f"md5:{MD5}", fname=ARCHIVE, path=folder, progressbar=bar)
    except Exception as error:  # requests, urllib and ssl each bring their own; the remedy is one
        reason = type(error).__name__
        raise DiffnumError(
            f"CIFAR-10 is not on this machine and cannot be downloaded ({reason}); {_advice()}"
        ) from None
    finally:
        bar.close()


class _Download:
    """What pooch tells about a download, as a progress bar on a terminal."""

    total = 0

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self.bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("downloading CIFAR-10", total=None)
        self.bar.start()

    def update(self, n: int) -> None:
        self.bar.update(self.task, total=self.total or None, advance=n)

    def reset(self) -> None:
        self.bar.reset(self.task)

    def close(self) -> None:
        self.bar.stop()


def _find(place: Path, split: str, exact: bool) -> Images | None:
    """First usable source at ``place``, exact and complete ones first."""
    inside = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
    by_name = {p.name: p for p in inside if p.is_file() or p.is_dir()}  # a pipe may never end
    if place.is_dir() and place.name == FOLDER:
        by_name[FOLDER] = place
    if ARCHIVE in by_name or place.name.endswith(".tar.gz"):
        path = by_name.get(ARCHIVE, place)
        return _cached(path, split, lambda: _batches(_tar_members(path), split), exact=True)
    if FOLDER in by_name:
        folder = by_name[FOLDER]
        members = ((p.name, read(p)) for p in folder.iterdir() if p.name in BATCHES[split])
        return _cached(folder, split, lambda: _batches(members, split), True)
    if PACK in by_name:
        path = by_name[PACK]
        exact = exact or split == "test"  # its test images are exact ones only
        return _cached(path, f"{split}-exact" if exact else split, lambda: _unpack(path, split, exact), exact)
    if place.is_dir() and (place / split).is_dir():
        tree = place / split
        files = [p for p in _below(tree) if _is_picture(p.relative_to(tree))]
        lossless = all(p.suffix.lower() == ".png" for p in files)
        if files and (lossless or not exact):
            pictures = ((p.relative_to(place).as_posix(), read(p)) for p in files)
            return _cached(tree, split, lambda: _decode(pictures, len(files)), lossless, files)
    for path in (p for p in by_name.values() if p.suffix == ".zip" and p.is_file()):
        names = _pictures(path, split)
        lossless = all(name.lower().endswith(".png") for name in names)
        if names and (lossless or not exact):
            return _cached(path, split, lambda: _decode(_zip_members(path, names), len(names)), lossless)  # noqa: B023
    if LOSSLESS in by_name:
        with _reading(by_name[LOSSLESS]), np.load(by_name[LOSSLESS]) as z:
            return Images(z[f"{split}_x"], z[f"{split}_y"], True, LOSSLESS)
    return None


def _below(folder: Path) -> list[Path]:
    """All files below a folder, through links to folders too, each folder once."""
    found, seen = [], set()
    for at, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(at) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(at))
        found += [Path(at, name) for name in names]
        found += [Path(at, name) for name in folders if name.lower().endswith(PICTURES)]  # refused where it is read
    return sorted(found)


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


def _is_picture(inside: PurePath) -> bool:
    """Whether a path inside a split is a picture in a folder, and neither it nor a folder is hidden."""
    shown = not any(part.startswith(".") or part == "__MACOSX" for part in inside.parts)
    return shown and len(inside.parts) > 1 and inside.suffix.lower() in PICTURES


def _pictures(path: Path, split: str) -> list[str]:
    """Names of the pictures of a split in a zip of class folders."""
    with _reading(path), zipfile.ZipFile(path) as z:
        parts = ((name, *f"/{name}".partition(f"/{split}/")) for name in z.namelist())
        return sorted(
            name for name, above, found, inside in parts
            if found and "__MACOSX" not in above and _is_picture(PurePosixPath(inside))
        )  # fmt: skip


def _cached(path: Path, key: str, decode: Any, exact: bool, files: list[Path] | None = None) -> Images:
    """Decode once; keep the arrays beside the downloads under a name that changes when the source does."""
    files = files or (sorted(path.rglob("*")) if path.is_dir() else [path])
    with _reading(path):  # a link may lead nowhere
        state = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    tag = hashlib.sha256(f"{FORMAT}|{path.resolve()}|{state}|{key}".encode()).hexdigest()[:16]
    file = cache() / "decoded" / f"cifar10-{key}-{tag}.npz"
    if file.is_file():
        try:
            with np.load(file) as z:
                return Images(z["images"], z["labels"], exact, path.name)
        except Exception:  # as many kinds as in `_reading`
            pass  # an interrupted disk; decode anew
    with _reading(path):
        images, labels = decode()
    if len(images) == 0:
        raise DiffnumError(f"{path} holds no {key} images of 32x32 pixels; {_advice()}")
    found = Images(images, labels, exact, path.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, lambda f: np.savez(f, images=images, labels=labels))
    except OSError:
        pass  # a read-only home costs time, not the run
    return found


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    blob = read(path)
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    if digest != MD5:
        raise DiffnumError(f"{path} has md5 {digest}, expected {MD5}: the download is incomplete; {_advice()}")
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is not None:
                yield Path(member.name).name, stream.read()


# All that arrays of bytes need; NumPy 1 and NumPy 2 each have their module for the function that makes them.
_NUMPY = {f"numpy.{core}.multiarray._reconstruct": np.empty(0).__reduce__()[0] for core in ("core", "_core")}
_NUMPY |= {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}


class _Numpy(pickle.Unpickler):
    """The canonical batches are pickles: these names, and nothing else at all."""

    def find_class(self, module: str, name: str) -> Any:
        if "." in name or f"{module}.{name}" not in _NUMPY:
            raise ValueError(f"unexpected {module}.{name} inside a CIFAR-10 batch")
        return _NUMPY[f"{module}.{name}"]


def _batches(members: Iterable[tuple[str, bytes]], split: str) -> tuple[np.ndarray, np.ndarray]:
    wanted = BATCHES[split]
    files = {name: blob for name, blob in members if name in wanted}
    if missing := [name for name in wanted if name not in files]:
        raise ValueError(f"missing {', '.join(missing)}")
    batches = [_Numpy(io.BytesIO(files[name]), encoding="bytes").load() for name in wanted]
    for name, batch in zip(wanted, batches, strict=True):
        rows, labels = batch[b"data"], batch[b"labels"]
        if rows.dtype != np.uint8 or rows.shape[1:] != (3072,) or np.shape(labels) != rows.shape[:1]:
            raise ValueError(
                f"{name} has data {rows.dtype} {rows.shape} with {len(labels)} labels, not uint8 (N, 3072)"
            )
    images = np.concatenate([b[b"data"] for b in batches]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.concatenate([np.asarray(b[b"labels"]) for b in batches])


def _zip_members(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as z:
        for name in names:
            yield name, z.read(name)


def _decode(members: Iterable[tuple[str, bytes]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many pictures named .../<class>/<file> -> arrays; the label is the class's place among the ten."""
    known = {**{name: i for i, name in enumerate(CLASSES)}, **{str(i): i for i in range(len(CLASSES))}}
    images, labels = [], []
    for name, blob in _watched(members, count, "reading pictures"):
        pixels, folder = _pixels(name, blob), PurePosixPath(name).parent.name
        if folder.lower() not in known:
            raise ValueError(f"{name} is in no folder of a class ({', '.join(CLASSES)}, or 0 to 9); move it away")
        images.append(pixels)
        labels.append(known[folder.lower()])
    return np.stack(images) if images else np.zeros((0, 32, 32, 3), np.uint8), np.array(labels, np.int64)


def _pixels(name: str, blob: bytes) -> np.ndarray:
    """A picture of 32 x 32 pixels, if it is what its name says and no conversion to RGB would lose any of it."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(blob))
        pixels = np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no picture; move it away") from None
    except Exception as error:  # as many kinds as in `_reading`
        raise ValueError(f"{name}: {error}") from None
    if pixels.shape != (32, 32, 3):
        raise ValueError(f"{name} has shape {pixels.shape}, expected 32x32 RGB")
    if picture.format != ("PNG" if name.lower().endswith(".png") else "JPEG"):
        raise ValueError(f"{name} is a {picture.format} picture by another name; rename it, or convert it")
    clear = "A" in picture.mode or "transparency" in picture.info
    if (clear and np.asarray(picture.convert("RGBA"))[..., 3].min() < 255) or picture.mode[0] in "IF":
        raise ValueError(f"{name} has {'an alpha channel' if clear else 'more than 8 bits'}; convert it to 8-bit RGB")
    return pixels


def _watched(items: Iterable[Any], count: int, text: str) -> Iterator[Any]:
    """The items, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(track(items, text, count, console=console, transient=True, disable=not console.is_terminal))


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
    place = placed(given) if given else cache()
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
    target = placed(folder) / PACK
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
    return _decode(((name, joined.read(int(size))) for name, size in pairs), len(listing))
