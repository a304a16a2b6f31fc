"""The front door, broken on purpose: what it lets in is not the model, or no batch of examples."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import AutodualError, BatchError
from tests.canaries.canary import Canary, checks_of, must_be_noticed
from tests.nets import random_mlp

F64 = torch.float64


class Config:
    """Holds a number that may change in place."""

    scale = 1.0


class Configured(nn.Module):
    """Reads a number from such an object."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.config = nn.Linear(4, 3).double(), Config()

    def forward(self, x):
        return torch.tanh(self.fc(x)) * self.config.scale


class Coupled(nn.Module):
    """Adds the last example to the first, and so on."""

    def forward(self, x):
        return torch.relu(x + x.flip(0))


class Branching(nn.Module):
    """Does something else with five examples."""

    def forward(self, x):
        return torch.relu(x) * (2 if len(x) == 5 else 1)


def inputs(n=3):
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


def a_changed_config_is_noticed():
    model, x = Configured(), inputs()
    net = ad.certify(model, 0.0)
    net.bounds(x)
    model.config.scale = 2.0
    with torch.no_grad():
        found, expected = net.bounds(x).lower, model(x)
    torch.testing.assert_close(
        found, expected, msg=lambda m: f"a changed config object was not noticed: {m}"
    )


def a_changed_attribute_is_noticed_in_training():
    """Also between the steps at which graph and model are compared."""
    model, x = nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.1)).double(), inputs()
    y = torch.tensor([0, 1, 2])
    net = ad.certify(model, 0.1)
    for slope in (0.1, 0.3, 0.5, 0.7):
        model[1].negative_slope = slope
        twin = nn.Sequential(model[0], nn.LeakyReLU(slope))
        with torch.no_grad():
            expected = ad.certify(twin, 0.1).margins(x, y)
            for _ in range(2):
                torch.testing.assert_close(
                    net.margins(x, y),
                    expected,
                    msg=lambda m: f"the bound is that of the model before: {m}",
                )


def let_in(model, x, what, *errors):
    """Raise if a model is let in with an input."""
    try:
        ad.certify(model, 0.1).bounds(x)
    except errors:
        return
    raise AssertionError(f"{what} was let in")


def coupled_examples_are_refused():
    let_in(Coupled(), inputs(), "a model that mixes examples", BatchError)


def a_fixed_batch_size_is_named():
    let_in(Branching(), inputs(5), "a model that counts its examples", BatchError)


def inputs_that_are_no_numbers_are_refused():
    x = inputs()
    x[0, 0] = torch.nan
    let_in(random_mlp(1, (4, 3, 3)), x, "a NaN", AutodualError)


def a_wrong_range_is_refused():
    """Whatever pass notes it."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()

    def wrong(graph):
        return replace(graph, ranges={graph.body[0].out: (100.0, 200.0)})

    with pytest.MonkeyPatch.context() as patch:
        passes = ad.front.passes.PIPELINE
        patch.setattr("autodual.front.passes.PIPELINE", (*passes, wrong))
        let_in(model, inputs(), "a value outside its range", ad.errors.GraphError)


CANARIES = {
    "the graph is not compared with the model": Canary(
        "autodual.front.door._compare",
        lambda f: lambda found: found.captured.pick(found.model(found.x)),
        a_changed_config_is_noticed,
        "a changed config object was not noticed",
    ),
    "everything is close": Canary(
        "autodual.front.door.close",
        lambda f: lambda one, other: True,
        a_changed_config_is_noticed,
        "a changed config object was not noticed",
    ),
    "attributes are not looked at": Canary(
        "autodual.front.door.fingerprint",
        lambda f: lambda model: replace(f(model), attributes={}),
        a_changed_attribute_is_noticed_in_training,
        "the bound is that of the model before",
    ),
    "all graphs are alike": Canary(
        "autodual.front.door.alike",
        lambda f: lambda one, other: True,
        a_changed_attribute_is_noticed_in_training,
        "the bound is that of the model before",
    ),
    "examples are not tried apart": Canary(
        "autodual.front.door.check_apart",
        lambda f: lambda graph, env: None,
        coupled_examples_are_refused,
        "a model that mixes examples was let in",
    ),
    "the batch size is not tried": Canary(
        "autodual.front.door.check_batch",
        lambda f: lambda captured, model, inputs: None,
        a_fixed_batch_size_is_named,
        "disagree on this input",
    ),
    "inputs are not looked at": Canary(
        "autodual.front.door.check_x",
        lambda f: lambda x, model, looks: x,
        inputs_that_are_no_numbers_are_refused,
        "a NaN was let in",
    ),
    "ranges are not tried": Canary(
        "autodual.front.door.check_ranges",
        lambda f: lambda graph, env: None,
        a_wrong_range_is_refused,
        "a value outside its range was let in",
    ),
}
CHECKS = checks_of(CANARIES)


@pytest.mark.parametrize("name", CHECKS)
def test_checks_pass_at_the_unbroken_door(name):
    CHECKS[name]()


@pytest.mark.parametrize("name", CANARIES)
def test_broken_doors_are_noticed(name, monkeypatch):
    must_be_noticed(CANARIES[name], monkeypatch)
