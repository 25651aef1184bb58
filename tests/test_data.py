"""CIFAR-10 on disk: what is not it is refused, and no file can run code, shift a label or make a reader wait."""

import io
import os
import pickle
import struct
import warnings
import zipfile
from math import prod

import numpy as np
import pytest
from PIL import Image

from diffnum.errors import DiffnumError
from diffnum.images import data
from diffnum.images.metrics import Reference


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFNUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFNUM_DATA", raising=False)


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tree(place, names, zipped):
    """A tree of pictures, or a zip of one: {path: content}."""
    if zipped:
        with zipfile.ZipFile(place / "a.zip", "w") as z:
            for name, blob in names.items():
                z.writestr(name, blob)
        return
    for name, blob in names.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(blob)


TEN = {f"train/{name}/{i}.png": png(i) for i, name in enumerate(data.CLASSES)}
STRAY = [
    "train/.ipynb_checkpoints/0.png", "train/cat/.ipynb_checkpoints/0.png", "__MACOSX/train/cat/._3.png",
    "train/__MACOSX/0.png", "train/cat/._3.png", "train/cat/Thumbs.db", "train/.DS_Store", "train/sheet.png",
    "train/cat/notes.txt", "train/.hidden/cat/0.png",
]  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("above", ["", ".datasets/"])
def test_no_hidden_folder_moves_a_label(tmp_path, zipped, above):
    place = tmp_path / above
    place.mkdir(exist_ok=True)
    tree(place, {**TEN, **dict.fromkeys(STRAY, b"no picture")}, zipped)
    found = data.cifar10(place)
    assert found.images[:, 0, 0, 0].tolist() == found.labels.tolist() == list(range(10))


@pytest.mark.parametrize("zipped", [False, True])
def test_classes_go_by_name_or_number_and_others_are_refused(tmp_path, zipped):
    names = {"train/7/a.png": png(7), "train/Frog/b.png": png(6), "train/cat/c.png": png(3)}
    tree(tmp_path, names, zipped)
    found = data.cifar10(tmp_path)
    assert sorted(found.labels) == [3, 6, 7] and found.images[:, 0, 0, 0].tolist() == found.labels.tolist()
    for i, name in enumerate(("plane", "thumbnails", "10", "cat/more", "_cat")):
        place = tmp_path / f"{i}"
        place.mkdir()
        tree(place, {**TEN, f"train/{name}/x.png": png(0)}, zipped)
        with pytest.raises(DiffnumError, match=r"x\.png is in no folder of a class .+ move it away"):
            data.cifar10(place)


IMAGES, LABELS = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES / 1.0, LABELS), (IMAGES[:, :16], LABELS), (IMAGES.transpose(0, 3, 1, 2), LABELS),
        (IMAGES[..., 0], LABELS),
        (IMAGES[:0], LABELS[:0]), (IMAGES.astype(np.int8), LABELS), (IMAGES, LABELS[:3]), (IMAGES, LABELS / 1.0),
        (IMAGES, LABELS - 1), (IMAGES, LABELS + 7), (IMAGES, LABELS[:, None]), (IMAGES, LABELS > 1),
        (IMAGES, np.array(list("abcd"))),
    ],
)  # fmt: skip
def test_arrays_that_are_no_cifar_are_refused_whatever_they_come_in(tmp_path, images, labels):
    for place in ("npz", "batches"):
        (tmp_path / place).mkdir()
    np.savez(tmp_path / "npz" / data.LOSSLESS, train_x=images, train_y=labels)
    batches(
        tmp_path / "batches", {b"data": images.reshape(len(images), prod(images.shape[1:])), b"labels": labels.tolist()}
    )
    for place in ("npz", "batches"):
        if place == "batches" and images.shape[1:] == (3, 32, 32):
            continue  # as pixels of a batch they are right
        with pytest.raises(DiffnumError, match=r"(is no CIFAR-10|cannot be read|holds no)"):
            data.cifar10(tmp_path / place)


def batches(folder, content):
    """The six files of the extracted archive, each the same: a pickle, or an object to pickle."""
    place = folder / data.FOLDER
    place.mkdir(exist_ok=True)
    blob = content if isinstance(content, bytes) else pickle.dumps(content, 4)
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (place / name).write_bytes(blob)


def short(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def calls(module, name, *arguments, protocol=4):
    """A pickle that calls a function by name."""
    function = short(module) + short(name) + b"\x93" if protocol == 4 else f"c{module}\n{name}\n".encode()
    items = b"".join(b"K" + bytes([a]) if isinstance(a, int) else short(a) for a in arguments)
    return b"\x80" + bytes([protocol]) + function + b"(" + items + b"tR."


ATTACKS = [
    ("os", "system", "touch harm"), ("builtins", "eval", "1"), ("builtins", "getattr", "a", "b"),
    ("_codecs", "encode", "a", "rot13"), ("_codecs", "lookup", "harm"), ("_codecs", "register_error", "a", "b"),
    ("_codecs", "decode", "a", "unicode_escape"), ("codecs", "encode", "a"), ("numpy.f2py", "compile", "harm"),
    ("numpy.f2py.crackfortran", "myeval", "1"), ("numpy", "load", "harm"), ("numpy", "fromfile", "harm"),
    ("numpy", "memmap", "harm"), ("numpy.core.multiarray", "scalar", "a"), ("numpy._core.multiarray", "fromfile", "a"),
    ("numpy.core.numeric", "_frombuffer", "a"), ("numpy.testing._private.utils", "runstring", "1", "a"),
    ("numpy", "ndarray.tofile", "harm"), ("numpy", "dtype.__class__", "a"), ("numpy.ndarray", "tofile", "harm"),
    ("numpy.core", "multiarray._reconstruct", "a"), ("", "numpy.dtype", "a"), ("copyreg", "_reconstructor", "a"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: ".".join(attack[:2]))
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_batch_calls_nothing_but_what_makes_arrays(tmp_path, monkeypatch, attack, protocol):
    if protocol == 2 and not attack[0]:
        pytest.skip("the older opcode has no empty module")
    monkeypatch.chdir(tmp_path)
    batches(tmp_path, calls(*attack, protocol=protocol))
    with pytest.raises(DiffnumError, match=r"unexpected .+ inside a CIFAR-10 batch"):
        data.cifar10(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_batch_of_the_archive_is_read_without_a_warning(tmp_path):
    """As Python 2 wrote them: text for bytes, and the module of NumPy 1."""
    rows = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    raw = rows.tobytes()
    blob = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + struct.pack("<I", len(raw)) + raw + b"tbU\x06labels](K\x03K\x09eu."
    )
    batches(tmp_path, blob)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = data.cifar10(tmp_path, "test")
    assert found.exact and found.labels.tolist() == [3, 9]
    assert (found.images == rows.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1)).all()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_never_waited_for(tmp_path):
    for i, name in enumerate(
        (data.ARCHIVE, data.PACK, data.LOSSLESS, "a.zip", "train/cat/0.png", f"{data.FOLDER}/test_batch")
    ):
        place = tmp_path / str(i)
        (place / name).parent.mkdir(parents=True)
        os.mkfifo(place / name)
        for given in (place, place / name):
            with pytest.raises(DiffnumError):
                data.cifar10(given, "test" if "test" in name else "train")


def test_a_cache_of_other_contents_is_decoded_anew(tmp_path):
    tree(tmp_path, TEN, False)
    first = data.cifar10(tmp_path)
    (file,) = (tmp_path / "cache").rglob("*.npz")
    for damage in (b"", b"not it"):
        file.write_bytes(damage)
        assert (data.cifar10(tmp_path).images == first.images).all()
    np.savez(file, images=first.images / 1.0, labels=first.labels)
    assert data.cifar10(tmp_path).images.dtype == np.uint8


@pytest.mark.parametrize("what", ["mean", "cov", "features"])
def test_statistics_with_nan_or_of_a_wrong_shape_are_refused(tmp_path, what):
    from safetensors.torch import load, save

    reference = Reference.of(np.random.default_rng(0).standard_normal((20, 3)))
    blob = reference.save(tmp_path / "a.safetensors").read_bytes()
    about = {"diffnum": '{"count": 20, "source": ""}'}
    for change in (
        lambda t: t / 0,
        lambda t: t * float("nan"),
        lambda t: t[:0],
        lambda t: t[None],
        lambda t: t.flatten()[0],
    ):
        tensors = load(blob)
        tensors[what] = change(tensors[what]).contiguous()
        with pytest.raises(DiffnumError, match="is not a reference"):
            Reference.from_bytes(save(tensors, about), "a")
    for text in ("[" * 100_000, "{}", "[]", '{"count": 1, "source": ""}', '{"count": [], "source": ""}'):
        with pytest.raises(DiffnumError, match="is not a reference"):
            Reference.from_bytes(save(load(blob), {"diffnum": text}), "a")


def drawn(mode, colour, kind="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, (32, 32), colour).save(buffer, kind)
    return buffer.getvalue()


ODD = {
    "16 bits": ("x.png", drawn("I;16", 40000), "more than 8 bits"),
    "alpha": ("x.png", drawn("RGBA", (9, 9, 9, 100)), "alpha"),
    "grey alpha": ("x.png", drawn("LA", (9, 0)), "alpha"),
    "a JPEG as PNG": ("x.png", drawn("RGB", (9, 9, 9), "JPEG"), "by another name"),
    "a PNG as JPEG": ("x.jpg", png(9), "by another name"),
    "empty": ("x.png", b"", "no picture"),
    "half": ("x.png", png(9)[:60], "truncated"),
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_picture_that_would_lose_something_is_refused_by_name(tmp_path, zipped, what):
    """Or one that is not what its name says: by their names pictures count as exact."""
    name, blob, message = ODD[what]
    tree(tmp_path, {**TEN, f"train/cat/{name}": blob}, zipped)
    with pytest.raises(DiffnumError, match=rf"cat/{name}.*{message}"):
        data.cifar10(tmp_path)


@pytest.mark.parametrize("mode, colour", [("L", 9), ("P", 0), ("1", 1), ("RGBA", (9, 9, 9, 255))])
def test_a_picture_that_loses_nothing_is_read(tmp_path, mode, colour):
    tree(tmp_path, {**TEN, "train/cat/x.png": drawn(mode, colour)}, False)
    assert len(data.cifar10(tmp_path)) == 11


def test_links_are_followed_once_and_a_lost_one_is_named(tmp_path):
    tree(tmp_path, TEN, False)
    classes = tmp_path / "train"
    (classes / "cat").rename(tmp_path / "elsewhere")
    (classes / "cat").symlink_to(tmp_path / "elsewhere")
    (classes / "dog" / "again").symlink_to(classes)
    assert data.cifar10(tmp_path).labels.tolist() == list(range(10))
    (classes / "dog" / "x.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DiffnumError, match=r"dog/x\.png"):
        data.cifar10(tmp_path)


def test_a_picture_that_moves_takes_its_label_along(tmp_path):
    """Its size and its time stay: what was decoded before must not come back."""
    tree(tmp_path, {name: blob.ljust(200, b"\0") for name, blob in TEN.items()}, False)
    cat, frog = tmp_path / "train" / "cat", tmp_path / "train" / "frog"
    for path in (cat, frog, *cat.iterdir(), *frog.iterdir()):
        os.utime(path, ns=(0, 0))
    data.cifar10(tmp_path)
    cat.rename(cat.with_name("new"))
    frog.rename(cat)
    cat.with_name("new").rename(frog)
    found = data.cifar10(tmp_path)
    assert found.images[found.labels == 3, 0, 0, 0].tolist() == [6]
