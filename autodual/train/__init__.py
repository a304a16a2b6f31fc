"""Training: losses that fit into any loop, and one loop that is short enough to copy."""

from __future__ import annotations

from autodual.train.adversary import Adversary, Growing
from autodual.train.augment import cutout, flipped, shifted, together
from autodual.train.batches import Batches
from autodual.train.cascade import Answer, Cascade, train_cascade
from autodual.train.data import Dataset, digits, load_data
from autodual.train.free import Free, Watch
from autodual.train.initial import Regularised, start_for_intervals
from autodual.train.logs import Board, Curves, Table
from autodual.train.losses import (
    TRADES,
    Adversarial,
    CrownIBP,
    Expressive,
    Loss,
    Mixed,
    Mixup,
    Robust,
    SmallBox,
    Standard,
    hinge,
)
from autodual.train.objective import Objective
from autodual.train.pseudo import balanced, pseudo_labelled
from autodual.train.schedules import Ramp, constant, one_cycle
from autodual.train.trainer import Hook, Recipe, State, fit

__all__ = [
    "TRADES",
    "Adversarial",
    "Adversary",
    "Answer",
    "Batches",
    "Board",
    "Cascade",
    "CrownIBP",
    "Curves",
    "Dataset",
    "Expressive",
    "Free",
    "Growing",
    "Hook",
    "Loss",
    "Mixed",
    "Mixup",
    "Objective",
    "Ramp",
    "Recipe",
    "Regularised",
    "Robust",
    "SmallBox",
    "Standard",
    "State",
    "Table",
    "Watch",
    "balanced",
    "constant",
    "cutout",
    "digits",
    "fit",
    "flipped",
    "hinge",
    "load_data",
    "one_cycle",
    "pseudo_labelled",
    "shifted",
    "start_for_intervals",
    "together",
    "train_cascade",
]
