"""Run the attacks of foolbox and torchattacks on a certified model, as on any module.

Both are optional: ``pip install foolbox torchattacks``.
"""

import torch
from torch import Tensor, nn

import autodual as ad

EPS = 0.02


def with_foolbox(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    import foolbox

    attack = foolbox.attacks.LinfPGD(steps=20)
    return attack(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=EPS)[1]


def with_torchattacks(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    import torchattacks

    return torchattacks.PGD(model, eps=EPS, alpha=EPS / 8, steps=20)(x, y)


def with_autodual(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return ad.attack.pgd(model, x, y, ad.LinfBall(EPS, domain=(0, 1)), steps=20).x


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    x = torch.rand(20, 1, 4, 4)
    y = model(x).argmax(1)
    net = ad.certify(model, ad.LinfBall(EPS, domain=(0, 1)))
    certificate = net(x, y)
    print(certificate)
    for attack in (with_autodual, with_foolbox, with_torchattacks):
        try:
            found = attack(net.model, x, y)
        except ImportError as error:
            print(f"{attack.__name__}: {error.name} is not installed")
            continue
        broken = net.model(found).argmax(1) != y
        assert not bool((broken & certificate.verified).any()), "an attack crossed the bound"
        print(f"{attack.__name__}: {int(broken.sum())} of {len(x)} broken, none of them verified")
    print(ad.self_check(net, x, y, steps=10))


if __name__ == "__main__":
    main()
