"""Proofs as files: how long they take to write and to check, and how large they are.

python benchmarks/proofs.py --data PATH [--images 200] [--units LPD_MLP_B_0.1 --open 20]
python benchmarks/proofs.py --acasxu PATH [--instances 1_1/4 …]

Seconds are of the processor, in this process alone. ``--units`` asks for what the dual leaves open
on images of a published net: these files have slopes, multipliers and splits of units. For ACAS Xu
the folder of the competition's benchmark, with onnx/ and vnnlib/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from networks import mnist_test, rvb, wk_mnist

import autodual as ad
from autodual_check.checking import check

BATCH = 200


def images(data: Path, count: int, eps: float, path: Path) -> None:
    """Certify images of the thesis's small net, and write and check those that are verified."""
    x, y = mnist_test(data)
    net = ad.certify(wk_mnist(data), ad.LinfBall(eps), bounds="dual", slopes="equal")
    other = ad.certify(net.model, ad.LinfBall(eps), slopes="equal")
    verified = size = accepted = 0
    solve = write = checking = floating = 0.0
    for start in range(0, count, BATCH):
        some = slice(start, min(start + BATCH, count))
        begun = time.process_time()
        certificate = net(x[some], y[some])
        solve += time.process_time() - begun
        assert isinstance(certificate, ad.Certificate)
        safe = certificate.verified
        begun = time.process_time()
        certificate[safe].save(path)
        write += time.process_time() - begun
        begun = time.process_time()
        answer, why = check(path)
        checking += time.process_time() - begun
        begun = time.process_time()
        rounded = check(path, floats=True)
        floating += time.process_time() - begun
        if rounded[0] != answer:
            print(f"images from {start}: {answer}, but in floats {rounded}")
        verified += int(safe.sum())
        accepted += int(safe.sum()) if answer == "valid" else 0
        size += path.stat().st_size
        if answer != "valid":
            print(f"images from {start}: {answer}: {why}")
        if start == 0:
            begun = time.process_time()
            other(x[some], y[some])
            fast = (time.process_time() - begun) / len(x[some])
    files = -(-count // BATCH)
    print(
        f"wk_mnist at {eps}: {verified} of {count} verified, {accepted} accepted; for each image "
        f"{1e3 * solve / count:.1f} ms to bound (bounds='dual', slopes='equal'; "
        f"{1e3 * fast:.1f} ms with bounds='ibp&dual'), {1e3 * write / verified:.1f} ms to write, "
        f"{1e3 * checking / verified:.1f} ms to check, {1e3 * floating / verified:.1f} in floats; "
        f"{size / verified:.0f} bytes, with {size / files / 1e6:.2f} MB for a file of {BATCH}"
    )


def units(data: Path, name: str, count: int, seconds: float, path: Path) -> None:
    """Verify images that a net's dual leaves open, and write and check those that hold."""
    model, eps = rvb(data, name), float(name.rpartition("_")[2])
    x, y = mnist_test(data)
    x, y = x[:1000], y[:1000]
    ball = ad.LinfBall(eps, (0, 1))
    left = ~ad.certify(model, ball)(x, y).verified & (model(x).argmax(1) == y)
    done, leaves, took, sizes = 0, list[int](), [0.0] * 4, list[int]()
    index = left.nonzero().squeeze(1)[:count].tolist()
    for i in index:
        others = [ad.Y[int(y[i])] - ad.Y[k] > 0 for k in range(10) if k != int(y[i])]
        begun = time.process_time()
        verdict = ad.verify(
            model, ad.Region.around(x[i], ball), ad.all_of(*others), timeout=seconds
        )
        spent = [time.process_time() - begun]
        if not verdict.verified:
            continue
        done += 1
        begun = time.process_time()
        try:
            leaves.append(verdict.save(path, timeout=seconds))
        except ad.errors.InputError as error:
            print(f"image {i}: {error}")
            continue
        spent.append(time.process_time() - begun)
        for floats in (False, True):
            begun = time.process_time()
            answer, why = check(path, floats=floats)
            spent.append(time.process_time() - begun)
            if answer != "valid":
                print(f"image {i}: {answer}: {why}")
        took = [a + b for a, b in zip(took, spent, strict=True)]
        sizes.append(path.stat().st_size)
    each = " / ".join(f"{t / max(1, len(leaves)):.2f}" for t in took)
    print(
        f"{name}: of {len(index)} images that the dual leaves open {done} are verified, "
        f"{len(leaves)} have a file, of {min(leaves)} to {max(leaves)} leaves and "
        f"{sum(sizes) / len(sizes) / 1e3:.0f} kB; seconds for each to verify, write, check, check "
        f"in floats: {each}"
    )


def trees(folder: Path, instances: list[str], seconds: float, path: Path) -> None:
    """Verify instances of ACAS Xu, and write and check those that hold."""
    for instance in instances:
        name, prop = instance.split("/")
        model = ad.load_onnx(folder / f"onnx/ACASXU_run2a_{name}_batch_2000.onnx").double()
        query = ad.read_vnnlib(folder / f"vnnlib/prop_{prop}.vnnlib", 5, 5)
        begun = time.process_time()
        verdict = ad.verify(model, None, query, timeout=seconds)
        took = time.process_time() - begun
        said = f"ACAS Xu {instance}: {verdict.status}, {verdict.bounded} parts, {took:.1f} s"
        if verdict.verified:
            begun = time.process_time()
            try:
                parts = verdict.save(path, timeout=seconds)
            except ad.errors.InputError as error:
                print(f"{said}; {error}", flush=True)
                continue
            wrote = time.process_time() - begun
            begun = time.process_time()
            answer, _ = check(path)
            checked = time.process_time() - begun
            said += (
                f"; proof of {parts} parts, {wrote:.1f} s to write, {checked:.1f} s to check "
                f"({answer}), {path.stat().st_size / 1e3:.0f} kB"
            )
        print(said, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder with nets/ and mnist/")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--units", help="one of the nets of linear layers")
    parser.add_argument("--open", type=int, default=20)
    parser.add_argument("--acasxu", type=Path)
    parser.add_argument("--instances", nargs="+", default=["1_2/3", "2_1/4", "3_4/3", "4_5/4"])
    parser.add_argument("--seconds", type=float, default=116)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.units is not None:
            units(args.data, args.units, args.open, args.seconds, Path(folder) / "units.proof")
        elif args.data is not None:
            images(args.data, args.images, args.eps, Path(folder) / "images.proof")
        if args.acasxu is not None:
            trees(args.acasxu, args.instances, args.seconds, Path(folder) / "tree.proof")


if __name__ == "__main__":
    main()
