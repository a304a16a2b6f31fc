"""Train against the bound."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autodual.brief import brief
from autodual.calls import called
from autodual.certified import Certified
from autodual.certify import certified_over
from autodual.condition import check_loss
from autodual.errors import InputError, Interrupted, TrainingWarning
from autodual.front.arguments import check_classes, probabilities
from autodual.front.capture import check_seen, unwrap
from autodual.inputs import Inputs
from autodual.labels import NONE, Labels, labelled_mean
from autodual.threat import Eps
from autodual.warn import warn
from autodual.wrapper import Wrapper


@called
def robust_loss(
    net: nn.Module,
    x: Tensor | Inputs,
    y: Labels,
    eps: Eps | None = None,
    *,
    bounds: str | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    fused: bool = False,
) -> Tensor:
    """Return an upper bound on the worst loss over the perturbation set (thesis, Theorem 2).

    max over the set of L(f(x′), y) ≤ L(−J, y), with J [N, K, *] the guaranteed margins z_y − z_k.
    A model with one logit z counts as (0, z): that is ``binary_cross_entropy_with_logits``.
    Differentiable in all of the model's parameters.

    Args:
        net: what ``certify`` returned, or a model together with ``eps``.
        x: inputs [N, *].
        y: labels [N], or [N, *] for every pixel; −100 for none. Where there is no other the loss
            is no number, as that of ``cross_entropy``: refused, or NaN in training on a GPU, which
            is not waited for.
        eps: another set than the one ``net`` was certified for, as in an ε schedule.
        bounds: the method, as for ``certify``; for a model only.
        loss: any loss of logits and labels that grows with every other class's logit and does
            not change when a constant is added to all logits; ``F.cross_entropy`` by default. For
            a model with one logit, a loss of that and of y as floats of its shape, like
            ``F.binary_cross_entropy_with_logits``, which grows as the logit moves away from y.
        fused: bound the cross-entropy itself, by one row for each example in place of one for each
            other class: never looser than interval arithmetic, as a rule looser than K − 1 rows
            (which may have their worst at different points), and quicker. For bounds "ibp+dual",
            which is then the default for a model, and "ibp&dual"; one label for each example.

    Warns:
        TrainingWarning: the outputs are probabilities.

    Raises:
        InputError: ``eps`` or ``bounds`` is missing or does not fit; there is no label at all;
            ``loss`` falls where the model gets worse, as samples show; as for ``certify``.
        ModelError: a wrapper such as DDP would not see the gradients; see ``RobustLoss``.
    """
    if not (loss is None or callable(loss)):
        raise InputError(f"loss= is a function of logits and labels, not {brief(loss)}")
    if torch.is_grad_enabled():
        check_seen(net)
    inside = unwrap(net)
    net = inside if isinstance(inside, Certified) else net
    if isinstance(net, Certified) and bounds is not None:
        raise InputError("this model is already certified; give bounds= to certify")
    bounds = ("ibp+dual" if fused else "ibp&dual") if bounds is None else bounds
    net = certified_over(net, eps, "robust_loss(model, x, y)", bounds)
    if fused and loss is not None:
        raise InputError("fused=True is for the default loss, cross-entropy: leave loss= out")
    try:
        logits, labels = net.worst(x, y) if not fused else net.least_likely(x, y)
    except Interrupted:
        raise KeyboardInterrupt from None  # the loss of some examples is not that of all
    classes = check_classes(net.graph.output)
    if net._looks(labels) and bool((labels == NONE).all()):
        raise InputError(
            f"all {labels.numel()} labels are {NONE}, for none, and the mean of no losses is no "
            "number: leave this batch out"
        )
    if loss is not None:
        check_loss(loss, classes, logits)
    if loss is None and probabilities(net.graph):
        warn(
            "all outputs lie in [0, 1], as those of a softmax or a sigmoid, and the loss reads "
            "them as logits: it never comes near 0, and gradients vanish. Return the logits, what "
            "comes before.",
            TrainingWarning,
        )
    if fused:
        return -labelled_mean(logits, labels)
    if loss is None or not classes.binary:
        return (loss or F.cross_entropy)(logits, labels)
    if bool((labels == NONE).any()):
        raise InputError(f"a label {NONE}, for none, needs the default loss")
    size = len(labels), *classes.size
    return loss((logits[:, 1] - logits[:, 0]).reshape(size), labels.reshape(size).to(logits))


class RobustLoss(Wrapper):
    """``robust_loss`` as a module, for what wraps modules and averages their gradients.

    ``DistributedDataParallel(RobustLoss(model, eps))(x, y).backward()`` gives every process the
    gradient of the loss over all their examples. Its parameters and the keys of its
    ``state_dict`` are the model's.

    Args:
        net, eps, bounds, loss, fused: as for ``robust_loss``; ``eps`` may be given at the call.
    """

    loss: Callable[[Tensor, Tensor], Tensor] | None

    @called
    def __init__(
        self,
        net: nn.Module,
        eps: Eps | None = None,
        *,
        bounds: str | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.eps, self.bounds, self.fused = net, eps, bounds, fused
        object.__setattr__(self, "loss", loss)  # which is no part of the module if it is one too
        self.training = net.training

    def extra_repr(self) -> str:
        """Describe the set and the method, where they are not the net's."""
        said = {"eps": self.eps, "bounds": self.bounds, "fused": self.fused or None}
        return ", ".join(f"{k}={v!r}" for k, v in said.items() if v is not None)

    @called
    def forward(self, x: Tensor | Inputs, y: Labels, eps: Eps | None = None) -> Tensor:
        """Return the robust loss; see ``robust_loss``."""
        eps = self.eps if eps is None else eps
        return robust_loss(
            self.net, x, y, eps, bounds=self.bounds, loss=self.loss, fused=self.fused
        )
