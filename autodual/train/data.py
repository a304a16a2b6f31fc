"""Data sets from files as they are published: idx, npz, CIFAR's binaries, folders of images."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodual.errors import InputError

DIGITS = "digits"

IMAGES = ".png", ".jpg", ".jpeg", ".bmp"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in [0, 1], [N, channels, height, width], and their labels [N], in two parts."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return int(max(self.y.max(), self.y_test.max())) + 1

    def first(self, train: int | None = None, test: int | None = None) -> Dataset:
        """Return the first examples of each part."""
        return Dataset(self.x[:train], self.y[:train], self.x_test[:test], self.y_test[:test])

    def held_back(self, count: int) -> tuple[Dataset, Dataset]:
        """Return this with the last ``count`` training examples in place of the test's, and itself.

        The first is for choosing among weights, where the test examples must not be looked at.
        """
        if not 0 < count < len(self.x):
            raise InputError(f"of {len(self.x)} examples {count} cannot be held back")
        rest, held = self.x[:-count], self.x[-count:]
        return Dataset(rest, self.y[:-count], held, self.y[-count:]), self


def load_data(where: Path | str) -> Dataset:
    """Read a data set.

    Args:
        where: ``"digits"``, scikit-learn's, or a folder with one of

            * ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same of ``t10k``,
              also as ``.gz``;
            * ``train.npz`` and ``test.npz``, each with ``images`` and ``labels``;
            * ``data_batch_1.bin`` to ``_5`` and ``test_batch.bin``, as of CIFAR-10;
            * ``train/`` and ``test/`` with a folder of images of one size for each class;

            or one ``.npz`` with ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Raises:
        InputError: there is none of these; a file is not what it should be, or not whole.
    """
    if str(where) == DIGITS:
        return digits()
    path = Path(where)
    if path.is_file():
        return _single(path)
    for fits, read in READERS:
        if path.is_dir() and any(path.glob(fits)):
            return read(path)
    forms = ", ".join(fits for fits, _ in READERS)
    raise InputError(
        f"{path} is {'a folder without' if path.is_dir() else 'no folder with'} {forms}, and no "
        f'.npz file; "{DIGITS}" needs no file'
    )


def digits(seed: int = 0) -> Dataset:
    """Return scikit-learn's 1,797 digits, 8×8, shuffled, with 360 held back."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, train = order[:360], order[360:]
    return Dataset(x[train], y[train], x[test], y[test])


def _idx(folder: Path) -> Dataset:
    """Read the four files of MNIST."""
    parts = []
    for name in ("train", "t10k"):
        images = _idx_file(_one(folder, f"{name}-images-idx3-ubyte"), 3)
        labels = _idx_file(_one(folder, f"{name}-labels-idx1-ubyte"), 1)
        parts += [_pair(folder, images, labels)]
    return _dataset(parts)


def _idx_file(path: Path, dims: int) -> np.ndarray:
    """Read one array of bytes: two zero bytes, 8 for bytes, dimensions, sizes, data."""
    raw = _bytes(path)
    start = 4 + 4 * dims
    if len(raw) < start or raw[:4] != bytes((0, 0, 8, dims)):
        raise InputError(
            f"{path} does not begin like an idx file of bytes in {dims} dimensions "
            f"({bytes((0, 0, 8, dims)).hex()}), but with {raw[:4].hex() or 'nothing'}"
        )
    shape = struct.unpack(f">{dims}I", raw[4:start])
    _check_length(path, len(raw), start + int(np.prod(shape)), f"for {list(shape)}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _archives(folder: Path) -> Dataset:
    """Read train.npz and test.npz."""
    parts = []
    for name in ("train", "test"):
        path = folder / f"{name}.npz"
        arrays = _arrays(path, ("images", "labels"))
        parts.append(_pair(path, arrays["images"], arrays["labels"]))
    return _dataset(parts)


def _single(path: Path) -> Dataset:
    """Read one archive with both parts."""
    names = "x_train", "y_train", "x_test", "y_test"
    arrays = _arrays(path, names)
    parts = [_pair(path, arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
    return _dataset(parts)


def _arrays(path: Path, names: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """Read arrays of an archive."""
    if not path.exists():
        raise InputError(f"{path} is missing")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise InputError(f"{path} has no {', '.join(missing)}; it has {[*archive]}")
            return {name: archive[name] for name in names}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no whole .npz archive: {error}") from error


CIFAR = 1 + 3 * 32 * 32
"""Bytes of one of CIFAR-10's records: a label and three planes of 32×32."""


def _cifar(folder: Path) -> Dataset:
    """Read CIFAR-10's binaries."""

    def read(name: str) -> tuple[Tensor, Tensor]:
        path = _one(folder, name)
        raw = _bytes(path)
        _check_length(path, len(raw), 10000 * CIFAR, f"for 10000 records of {CIFAR}")
        rows = np.frombuffer(raw, np.uint8).reshape(-1, CIFAR)
        return _pair(path, rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0])

    train = [read(f"data_batch_{i}.bin") for i in range(1, 6)]
    x, y = (torch.cat(parts) for parts in zip(*train, strict=True))
    return _dataset([(x, y), read("test_batch.bin")])


def _folders(folder: Path) -> Dataset:
    """Read folders of images, a class each, in the order of their names."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError("folders of images need Pillow: pip install pillow") from None
    names = sorted(p.name for p in (folder / "train").iterdir() if p.is_dir())

    def read(part: str) -> tuple[Tensor, Tensor]:
        found, labels, shape = [], [], None
        for label, name in enumerate(names):
            for path in sorted((folder / part / name).glob("*")):
                if path.suffix.lower() not in IMAGES:
                    continue
                try:
                    array = np.asarray(Image.open(path))
                except OSError as error:
                    raise InputError(f"{path} is no whole image: {error}") from error
                shape = shape or array.shape
                if array.shape != shape:
                    raise InputError(f"{path} is {array.shape}, other images are {shape}")
                found.append(array)
                labels.append(label)
        if not found:
            raise InputError(f"{folder / part} has no images in folders {', '.join(names)}")
        stack = np.stack(found)
        return _pair(folder / part, stack if stack.ndim == 3 else np.moveaxis(stack, 3, 1), labels)

    return _dataset([read("train"), read("test")])


READERS: tuple[tuple[str, Callable[[Path], Dataset]], ...] = (
    ("train-images-idx3-ubyte*", _idx),
    ("train.npz", _archives),
    ("data_batch_1.bin*", _cifar),
    ("train/", _folders),
)


def _one(folder: Path, name: str) -> Path:
    """Return a file, or its compressed form."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise InputError(f"{folder / name} is missing, and so is {name}.gz")


def _bytes(path: Path) -> bytes:
    """Read a file, compressed or not."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is no whole gzip file: {error}") from error


def _check_length(path: Path, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise InputError(f"{path} has {found} bytes and should have {wanted}, {what}")


def _pair(path: Path, images: np.ndarray, labels: Any) -> tuple[Tensor, Tensor]:
    """Return images [N, C, H, W] in [0, 1] and labels of what was read."""
    y = torch.as_tensor(np.asarray(labels).astype(np.int64)).flatten()
    x = torch.tensor(np.asarray(images))
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    if x.dim() == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.movedim(3, 1)
    x = x.unsqueeze(1) if x.dim() == 3 else x
    if len(x) != len(y) or len(x) == 0:
        raise InputError(f"{path} has {len(x)} images and {len(y)} labels")
    return x, y


def _dataset(parts: list[tuple[Tensor, Tensor]]) -> Dataset:
    (x, y), (x_test, y_test) = parts
    return Dataset(x, y, x_test, y_test)
