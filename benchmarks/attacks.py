"""How many errors attacks find, and how fast, beside numbers in print and beside peers.

python benchmarks/attacks.py --data PATH              errors on all 10,000 MNIST test images
python benchmarks/attacks.py --data PATH --peers      beside foolbox and torchattacks, taking turns
python benchmarks/attacks.py --data PATH --ensemble   the ensemble beside torchattacks' AutoAttack
python benchmarks/attacks.py --data PATH --picture    draw examples from every set: out/NET.png

The peers need ``pip install foolbox torchattacks``; those that are not installed are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from networks import mnist_test, published
from rich.progress import track
from timing import alternate
from torch import Tensor, nn

import autodual as ad
from autodual import attack
from autodual.attack import losses
from autodual.report import pictures

STEPS = 40
NETS = {
    "wk_mnist": (0.1, "PGD 4.11 %"),
    "LPD_MLP_B_0.1": (0.1, "PGD 13.39 %, exact 14.45 %"),
    "LPD_MLP_B_0.2": (0.2, "PGD 33.85 %, exact 36.33 %"),
    "LPD_MLP_B_0.3": (0.3, "PGD 57.29 %, exact 59.85 %"),
}
"""ε, and the errors in print within [0, 1] on all 10,000 images."""


def errors(data: Path, name: str, images: int, batch: int, seed: int) -> None:
    """Print the errors that each attack adds to those before it; the last line is their union."""
    model, (eps, printed) = published(data, name), NETS[name]
    x, y = mnist_test(data)
    x, y = x[:images], y[:images]
    generator = torch.Generator().manual_seed(seed)
    options = {"early_stop": True, "generator": generator}
    attacks: dict[str, Callable[..., attack.Attack]] = {
        "PGD, 40 steps, 5 starts": partial(attack.pgd, steps=40, restarts=5, **options),
        "APGD, cross-entropy": partial(attack.apgd, **options),
        "APGD, logit ratio": partial(attack.apgd, loss=losses.dlr, **options),
        "APGD, every class": partial(attack.multi_targeted, steps=30, **options),
    }
    ball = ad.LinfBall(eps, domain=(0, 1))
    with torch.no_grad():
        broken = model(x).argmax(1) != y
    print(f"{name}, ε = {eps} in [0, 1]; in print, all 10,000: {printed}")
    print(f"clean: {int(broken.sum())} of {len(x)} wrong = {100 * broken.double().mean():.2f} %")
    for kind, run in attacks.items():
        start, begun, open_ = time.perf_counter(), int(broken.sum()), (~broken).nonzero().squeeze(1)
        for part in track(open_.split(batch), description=kind):
            broken[part] = run(model, x[part], y[part], ball).success
        seconds, wrong = time.perf_counter() - start, int(broken.sum())
        print(
            f"{kind}: {wrong - begun} more, {wrong} of {len(x)} wrong = "
            f"{100 * wrong / len(x):.2f} %, {seconds:.1f} s",
            flush=True,
        )


Found = tuple[Tensor, Tensor]
Job = Callable[[nn.Module, Tensor, Tensor, float], Found]
"""Takes the model, images, labels and ε to points and which of them succeed."""


def ours(model: nn.Module, x: Tensor, y: Tensor, eps: float, early_stop: bool = False) -> Found:
    ball = ad.LinfBall(eps, domain=(0, 1))
    found = attack.pgd(model, x, y, ball, steps=STEPS, early_stop=early_stop)
    return found.x, found.success


def foolbox_job() -> Job:
    import foolbox

    pgd = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / STEPS, steps=STEPS, random_start=False)

    def job(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Found:
        return pgd(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=eps)[1:]

    return job


def torchattacks_job() -> Job:
    import torchattacks

    def job(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Found:
        alpha = 2.5 * eps / STEPS
        found = torchattacks.PGD(model, eps, alpha, STEPS, random_start=False)(x, y)
        with torch.no_grad():  # torchattacks does not say which succeed
            return found, model(found).argmax(1) != y

    return job


def ensembles(data: Path, name: str, eps: float, images: int, batch: int) -> None:
    """Print what the ensemble and torchattacks' AutoAttack break, and how long they take."""
    model = published(data, name)
    x, y = (part[:images] for part in mnist_test(data))

    def ours(x: Tensor, y: Tensor) -> Found:
        found = attack.ensemble(model, x, y, ad.LinfBall(eps, domain=(0, 1)), batch=batch)
        print(found)
        return found.x, found.success

    def peers(x: Tensor, y: Tensor) -> Found:
        import torchattacks

        auto = torchattacks.AutoAttack(model, eps=eps, n_classes=10, seed=0)
        found = torch.cat(
            [auto(*part) for part in zip(x.split(batch), y.split(batch), strict=True)]
        )
        with torch.no_grad():
            return found, model(found).argmax(1) != y

    print(f"{name}, ε = {eps}, {images} images in batches of {batch}")
    for kind, run in {"ensemble": ours, "AutoAttack of torchattacks": peers}.items():
        start = time.process_time()
        try:
            found = run(x, y)
        except ImportError:
            print("torchattacks is not installed")
            continue
        seconds = time.process_time() - start
        print(f"  {kind:28}{checked(model, x, y, eps, [found]):5d} wrong  {seconds:7.1f} s of CPU")


def checked(model: nn.Module, x: Tensor, y: Tensor, eps: float, answers: list[Found]) -> int:
    """Return how many points fool the model; all must lie in their set."""
    found = torch.cat([points.detach() for points, _ in answers])
    assert bool(ad.LinfBall(eps, domain=(0, 1)).contains(x, found).all())
    with torch.no_grad():
        wrong = int((model(found).argmax(1) != y).sum())
    claimed = int(torch.cat([success for _, success in answers]).sum())
    assert wrong == claimed, f"{claimed} successes claimed, {wrong} found"
    return wrong


def peers(data: Path, name: str, eps: float, images: int, batch: int, runs: int) -> None:
    """Print how often PGD succeeds and how long it takes, all with the same steps from x."""
    model = published(data, name)
    x, y = mnist_test(data)
    x, y = x[:images], y[:images]
    jobs: dict[str, Job] = {
        "autodual": ours,
        "autodual, early stop": partial(ours, early_stop=True),
    }
    for peer, make in {"foolbox": foolbox_job, "torchattacks": torchattacks_job}.items():
        try:
            jobs[peer] = make()
        except ImportError:
            print(f"{peer} is not installed")
    answers: dict[str, list[Found]] = {}

    def whole(kind: str) -> None:
        parts = zip(x.split(batch), y.split(batch), strict=True)
        answers[kind] = [jobs[kind](model, *part, eps) for part in parts]

    seconds = alternate({kind: partial(whole, kind) for kind in jobs}, runs)
    wrong = {kind: checked(model, x, y, eps, found) for kind, found in answers.items()}
    print(f"{name}, ε = {eps}, {STEPS} steps from x, {images} images in batches of {batch}")
    for kind, each in seconds.items():
        print(
            f"  {kind:22}{wrong[kind]:5d} wrong  {1e3 * each / images:7.3f} ms per image  "
            f"× {each / seconds['autodual']:.2f}"
        )


def picture(data: Path, name: str, image: int) -> None:
    """Draw adversarial examples of one test image, from the smallest set of each kind."""
    x = mnist_test(data)[0][image : image + 1]
    out = Path(f"out/{name}.png")
    out.parent.mkdir(exist_ok=True)
    found = pictures.of_each_kind(published(data, name), x)
    pictures.draw(found).savefig(out, dpi=130)
    print(f"{out}: {', '.join(found)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with nets/ and mnist/")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--images", type=int)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--eps", nargs="+", type=float, help="beside peers: other sizes of the set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", action="store_true", help="time beside foolbox and torchattacks")
    parser.add_argument("--ensemble", action="store_true", help="the ensemble beside AutoAttack")
    parser.add_argument("--picture", action="store_true", help="draw adversarial examples")
    parser.add_argument("--image", type=int, default=0, help="which test image to draw")
    args = parser.parse_args()
    for name in args.nets:
        if args.picture:
            picture(args.data, name, args.image)
        elif args.ensemble:
            for eps in args.eps or [NETS[name][0]]:
                ensembles(args.data, name, eps, args.images or 500, args.batch)
        elif args.peers:
            for eps in args.eps or [NETS[name][0]]:
                peers(args.data, name, eps, args.images or 1000, args.batch, args.runs)
        else:
            errors(args.data, name, args.images or 10_000, args.batch, args.seed)


if __name__ == "__main__":
    main()
