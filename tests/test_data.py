"""Data sets from files, and what is said of files that are not what they should be."""

import gzip
import struct

import numpy as np
import pytest
import torch

from autodual.errors import InputError
from autodual.train import load_data

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.integers(0, 256, (7, 5, 4), dtype=np.uint8), np.arange(7, dtype=np.uint8) % 3
X_TEST, Y_TEST = X[:3], Y[:3]


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, compressed):
    for name, array in (
        ("train-images-idx3-ubyte", X),
        ("train-labels-idx1-ubyte", Y),
        ("t10k-images-idx3-ubyte", X_TEST),
        ("t10k-labels-idx1-ubyte", Y_TEST),
    ):
        raw = idx(array)
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(raw) if compressed else raw)


def write_archives(folder, compressed):
    save = np.savez_compressed if compressed else np.savez
    save(folder / "train.npz", images=X, labels=Y)
    save(folder / "test.npz", images=X_TEST, labels=Y_TEST)


def write_folders(folder, compressed):
    from PIL import Image

    for part, images, labels in (("train", X, Y), ("test", X_TEST, Y_TEST)):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / part / f"class{label}" / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("write", [write_idx, write_archives])
def test_every_form_gives_the_same(tmp_path, write, compressed):
    write(tmp_path, compressed)
    found = load_data(tmp_path)
    assert torch.equal(found.x, torch.tensor(X).float().unsqueeze(1) / 255)
    assert torch.equal(found.y, torch.tensor(Y).long())
    assert torch.equal(found.x_test, found.x[:3])
    assert torch.equal(found.y_test, found.y[:3])
    assert found.classes == 3


def test_one_archive_holds_both_parts(tmp_path):
    colour = np.stack([X, X, X], 3)
    np.savez(tmp_path / "all.npz", x_train=colour, y_train=Y, x_test=colour[:3], y_test=Y_TEST)
    found = load_data(tmp_path / "all.npz")
    assert found.x.shape == (7, 3, 5, 4)
    assert torch.equal(found.x[:, 1], torch.tensor(X).float() / 255)


def test_folders_of_images_are_classes(tmp_path):
    pytest.importorskip("PIL")
    write_folders(tmp_path, False)
    found = load_data(str(tmp_path))
    order = np.argsort(Y, kind="stable")
    assert torch.equal(found.x, torch.tensor(X[order]).float().unsqueeze(1) / 255)
    assert found.y.tolist() == sorted(Y.tolist())
    (tmp_path / "train" / "class0" / "zero.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"zero\.png is no whole image"):
        load_data(tmp_path)


def test_cifars_binaries(tmp_path):
    rows = np.zeros((10000, 3073), np.uint8)
    rows[:, 0], rows[5, 1:] = np.arange(10000) % 10, 255
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (tmp_path / name).write_bytes(rows.tobytes())
    found = load_data(tmp_path)
    assert found.x.shape == (50000, 3, 32, 32)
    assert found.x_test[5].min() == 1
    assert found.x_test[4].max() == 0
    assert found.y[:12].tolist() == [*range(10), 0, 1]
    (tmp_path / "data_batch_3.bin").write_bytes(rows[:-1].tobytes())
    with pytest.raises(
        InputError, match=r"data_batch_3\.bin has 30726927 bytes and should have 30730000"
    ):
        load_data(tmp_path)


def test_scikit_learns_digits_need_no_file():
    found = load_data("digits")
    assert found.x.shape == (1437, 1, 8, 8)
    assert len(found.y_test) == 360
    some, whole = found.first(100, 50).held_back(20)
    assert (len(some.x), len(some.x_test), len(whole.x_test)) == (80, 20, 50)
    assert torch.equal(some.x_test, whole.x[80:])
    with pytest.raises(InputError, match="held back"):
        found.held_back(1437)


@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_not_whole_is_named(tmp_path, compressed):
    write_idx(tmp_path, compressed)
    name = "t10k-images-idx3-ubyte" + (".gz" if compressed else "")
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=name):
        load_data(tmp_path)
    path.write_bytes(gzip.compress(b"<html>") if compressed else b"<html>")
    with pytest.raises(InputError, match="does not begin like an idx file"):
        load_data(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte is missing"):
        load_data(tmp_path)
    path.write_bytes(whole)
    labels = idx(Y[:2])
    other = tmp_path / name.replace("images-idx3", "labels-idx1")
    other.write_bytes(gzip.compress(labels) if compressed else labels)
    with pytest.raises(InputError, match="3 images and 2 labels"):
        load_data(tmp_path)


def test_archives_that_lack_something_are_named(tmp_path):
    write_archives(tmp_path, True)
    np.savez(tmp_path / "test.npz", pictures=X_TEST)
    with pytest.raises(InputError, match=r"test\.npz has no images, labels; it has \['pictures'\]"):
        load_data(tmp_path)
    (tmp_path / "test.npz").write_bytes((tmp_path / "train.npz").read_bytes()[:100])
    with pytest.raises(InputError, match=r"test\.npz is no whole \.npz archive"):
        load_data(tmp_path)
    (tmp_path / "test.npz").unlink()
    with pytest.raises(InputError, match=r"test\.npz is missing"):
        load_data(tmp_path)


def test_a_folder_with_nothing_says_what_was_looked_for(tmp_path):
    for where in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte\*, train\.npz"):
            load_data(where)
