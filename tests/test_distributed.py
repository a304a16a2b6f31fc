"""Several processes, each with its part of the batch: DDP around the loss, refused elsewhere."""

import copy
import datetime
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel
from torch.nn.parallel import DistributedDataParallel as DDP

import autodual as ad
from autodual.errors import ModelError

MINUTE = datetime.timedelta(seconds=60)
OPTIONS = {
    "default": {},
    "rows": {"bounds": "dual"},
    "intervals": {"bounds": "ibp"},
}


def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 20), nn.Tanh())
    model.append(nn.Linear(20, 3))
    return model, torch.rand(8, 4), torch.arange(8) % 3


@contextmanager
def member(folder, rank, size):
    """Be one of several processes."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size, timeout=MINUTE
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def train(rank, size, folder):
    with member(folder, rank, size):
        found = gradients(rank, size)
    torch.save(found, f"{folder}/{rank}.pt")


def gradients(rank, size):
    """Return gradients of every kind of bound for a part of the batch, then train three steps."""
    model, x, y = make()
    x, y = x[rank::size], y[rank::size]
    found = {}
    for name, options in OPTIONS.items():
        twin = copy.deepcopy(model)
        loss = DDP(ad.RobustLoss(ad.certify(twin, 0.05, **options)))
        loss(x, y).backward()
        found[name] = [p.grad for p in twin.parameters()]
    twin = copy.deepcopy(model)
    sharded = fully_shard(ad.RobustLoss(twin, 0.05), mesh=init_device_mesh("cpu", (size,)))
    sharded(x, y).backward()
    found["sharded"] = [p.grad.full_tensor() for p in twin.parameters()]
    loss = DDP(ad.RobustLoss(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        loss(x, y, 0.01 * (step + 1)).backward()
        optimizer.step()
    return found | {"trained": [p.detach() for p in model.parameters()]}


def test_gradients_are_those_of_the_whole_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    other = mp.get_context("spawn").Process(target=train, args=(1, 2, str(tmp_path)))
    other.start()
    try:
        train(0, 2, str(tmp_path))
        other.join(60)
        assert other.exitcode == 0
    finally:
        other.kill()
    one, two = (torch.load(f"{tmp_path}/{rank}.pt") for rank in (0, 1))
    assert all(map(torch.equal, one["trained"], two["trained"]))
    model, x, y = make()
    for name, options in {**OPTIONS, "sharded": {}}.items():
        twin = copy.deepcopy(model)
        ad.robust_loss(ad.certify(twin, 0.05, **options), x, y).backward()
        for ours, theirs in zip(twin.parameters(), one[name], strict=True):
            torch.testing.assert_close(theirs, ours.grad)
    alone = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        alone.zero_grad()
        ad.robust_loss(model, x, y, 0.01 * (step + 1)).backward()
        alone.step()
    for ours, theirs in zip(model.parameters(), one["trained"], strict=True):
        torch.testing.assert_close(theirs, ours.detach())


@pytest.fixture
def group(tmp_path):
    with member(tmp_path, 0, 1):
        yield


def test_a_wrapper_that_a_bound_would_go_past_is_refused(group):
    model, x, y = make()
    for wrapped in (DDP(model), DataParallel(model), nn.Sequential(DDP(model))):
        for call in (
            lambda w: ad.robust_loss(w, x, y, 0.05),
            lambda w: ad.certify(w, 0.05).margins(x, y),
            lambda w: ad.certify(w, 0.05).lower_bound(x, torch.eye(3)),
            lambda w: ad.certify(w, 0.05).bounds(x),
            lambda w: ad.certify(w, 0.05).relax(x),
            lambda w: ad.RobustLoss(w, 0.05)(x, y),
        ):
            with pytest.raises(ModelError, match=r"goes past D.*Wrap the loss, not the model"):
                call(wrapped)
    with pytest.raises(ModelError, match="goes past DataParallel"):
        ad.robust_loss(DataParallel(ad.certify(model, 0.05)), x, y)
    with pytest.raises(ModelError, match=r"DistributedDataParallel\(ad\.RobustLoss\(net\)\)"):
        DDP(ad.certify(model, 0.05))
    with pytest.raises(ModelError, match="DataParallel copies a module at every call"):
        ad.RobustLoss(model._replicate_for_data_parallel(), 0.05)(x, y)


def test_certifying_needs_no_gradients(group):
    model, x, y = make()
    expected = ad.certify(model, 0.05)(x, y).margins
    for wrapped in (DDP(model), DataParallel(model)):
        net = ad.certify(wrapped, 0.05)
        torch.testing.assert_close(net(x, y).margins, expected)
        assert len(net.radius(x, y)) == len(net.within(x, 0.5)) == len(net.detect(x)) == 8
        with torch.no_grad():
            torch.testing.assert_close(net.margins(x, y), expected)
            assert float(ad.robust_loss(wrapped, x, y, 0.05)) > 0
    model.requires_grad_(False)
    torch.testing.assert_close(ad.certify(DataParallel(model), 0.05).margins(x, y), expected)


def test_sharded_models_are_refused_by_name(group):
    model, x, y = make()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ModelError, match=r"FSDP.*fully_shard\(ad\.RobustLoss\(model\)\)"):
        ad.certify(model, 0.05)(x, y)


def test_a_certified_net_is_not_certified_again():
    model, x, y = make()
    net = ad.certify(model, 0.05)
    for again in (net, ad.RobustLoss(net)):
        with pytest.raises(ModelError, match=r"net\.at\(eps\)"):
            ad.certify(again, 0.1)
    with pytest.raises(ModelError, match=r"net\.at\(eps\)"):
        ad.robust_loss(ad.RobustLoss(net), x, y, 0.1)
