"""Certificates and estimates as objects: picked from, joined, moved, saved; still true after."""

import copy
import pickle

import pytest
import torch
from torch import nn

import autodual as ad
from autodual.errors import InputError, NoGuaranteeError, UnsoundError

X, Y = torch.rand(6, 4), torch.arange(6) % 3


def net(eps=0.05, **options):
    torch.manual_seed(0)
    return ad.certify(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), eps, **options)


def estimate():
    return net(estimator=ad.Cauchy(5))(X, Y)


def same(one, other):
    assert type(one) is type(other)
    assert str(one) == str(other)
    torch.testing.assert_close(one.margins, other.margins, rtol=0, atol=0, equal_nan=True)
    assert one.labels is other.labels or torch.equal(one.labels, other.labels)


INDICES = {
    "slice": slice(1, 5, 2),
    "mask": torch.tensor([True, False, True, True, False, False]),
    "numbers": torch.tensor([5, 0, 0]),
    "list": [2, -1],
    "one": 3,
    "last": -1,
    "none": slice(0, 0),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("make", [lambda: net()(X, Y), estimate, lambda: net().within(X, 1.0)])
def test_some_examples(make, index):
    whole = make()
    some = whole[index]
    at = torch.arange(6)[index].reshape(-1)
    assert len(some) == len(at)
    torch.testing.assert_close(some.margins, whole.margins[at])
    if isinstance(whole, ad.Certificate):
        assert torch.equal(some.verified, whole.verified[at])


def test_only_examples_are_indexed():
    certificate = net()(X, Y)
    for index in ((0, 1), (slice(None), 0), None, ...):
        with pytest.raises(InputError, match=r"by examples alone.*certificate\.margins"):
            certificate[index]
    for index in (6, torch.tensor([True])):
        with pytest.raises(IndexError):
            certificate[index]
    assert [len(one) for one in certificate] == [1] * 6


def test_parts_join_to_the_whole():
    for whole in (net()(X, Y), estimate(), net().within(X, 1.0)):
        same(type(whole).cat([whole[:2], whole[2:5], whole[5:]]), whole)
    likely = [net(estimator=ad.Geometric(20, 2, delta))(X, Y) for delta in (0.01, 0.1)]
    assert ad.Certificate.cat(likely).delta == 0.1
    assert ad.Certificate.cat(part for part in likely).delta == 0.1


def test_what_says_other_things_does_not_join():
    certificate, cat = net()(X, Y), ad.Certificate.cat
    for parts, message in (
        ([], "not nothing"),
        ([certificate, estimate()], "Certificates, not Certificate, Estimate"),
        ([estimate()], "not Estimate"),
        ([certificate, net(0.1)(X, Y)], r"threat LinfBall\(0.05\) and LinfBall\(0.1\)"),
        ([certificate, net(0.05 + 1e-9)(X, Y)], "threat LinfBall"),
        ([certificate, net(bounds="ibp")(X, Y)], "bounds ibp&dual and ibp"),
        ([certificate, net().within(X, 1.0)], "kinds of questions"),
    ):
        with pytest.raises(InputError, match=message):
            cat(parts)
    with pytest.raises(InputError, match="Estimates, not Certificate"):
        ad.Estimate.cat([certificate])


def test_an_eps_of_each_example_goes_with_it():
    """Where each has its own, results join whatever it is, and none is lost."""
    eps = torch.linspace(0.01, 0.06, 6)
    threat = ad.L2Ball(eps.reshape(6, 1).double().requires_grad_(), (0, 1))
    whole = net(threat)(X, Y)
    assert torch.equal(whole.eps, eps)
    assert "L2Ball(tensor, domain=(0, 1)) with ε tensor[6] from 0.01 to 0.06 (" in str(whole)
    assert torch.equal(whole[[4, 1]].eps, eps[[4, 1]])
    other = net(ad.L2Ball(eps[:3] * 2, (0, 1)))(X[:3], Y[:3])
    both = ad.Certificate.cat([whole[whole.verified], other, whole[5]])
    expected = torch.cat([eps[whole.verified], 2 * eps[:3], eps[5:]])
    assert torch.equal(both.eps, expected)
    again = ad.Certificate.from_dict(both.cpu().to(torch.float64).detach().to_dict())
    assert torch.equal(again.eps, expected)
    for single in (net(0.05), net(ad.Union(ad.LinfBall(0.1), ad.L2Ball(0.1)))):
        assert single(X, Y).eps is None
    with pytest.raises(InputError, match="threat"):
        ad.Certificate.cat([whole, net(ad.L2Ball(0.01, (0, 1)))(X, Y)])
    assert torch.equal(net(eps, estimator=ad.Cauchy(5))(X, Y).eps, eps)
    assert torch.equal(net(eps).within(X, 1.0).eps, eps)


def test_moved_margins_are_bounds_still():
    torch.manual_seed(0)
    margins = torch.cat([torch.randn(200, 3, dtype=torch.float64), torch.full((1, 3), 1e-300)])
    margins = torch.cat([margins, torch.tensor([[1e300, torch.nan, -1e300]], dtype=torch.float64)])
    wide = ad.Certificate(margins.double(), torch.zeros(202, dtype=torch.int64), "set", "ibp")
    narrow = wide.to(torch.float32)
    held = narrow.margins.double() <= wide.margins
    assert bool((held | wide.margins.isnan()).all())
    assert bool((wide.verified | ~narrow.verified).all())
    torch.testing.assert_close(narrow.margins[:200].double(), wide.margins[:200])
    same(narrow.to(torch.float64).to(torch.float32), narrow)
    same(narrow.to("cpu", torch.float32).cpu().detach(), narrow)
    for dtype in (torch.bfloat16, torch.int64):
        with pytest.raises(InputError, match="float32 or float64"):
            wide.to(dtype)


def test_saved_and_loaded_with_the_defaults_of_torch(tmp_path):
    for result in (net()(X, Y), estimate(), net().within(X, 1.0)):
        torch.save(result.to_dict(), tmp_path / "result.pt")
        data = torch.load(tmp_path / "result.pt")
        same(type(result).from_dict(data), result)
        same(copy.deepcopy(result), result)
        same(pickle.loads(pickle.dumps(result)), result)
    with pytest.raises(InputError, match="no Certificate but Estimate"):
        ad.Certificate.from_dict(estimate().to_dict())
    for data in ({}, {"kind": "Certificate", "margins": X}, net()(X, Y)):
        with pytest.raises(InputError, match="no Certificate"):
            ad.Certificate.from_dict(data)


def test_an_estimate_says_why_it_verifies_nothing():
    batch_norm = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    for result, reason in (
        (estimate(), r"sums are estimated by Cauchy.*ad\.Exact\(\)"),
        (ad.certify(batch_norm, 0.1)(X, Y), r"BatchNorm in training.*model\.eval\(\)"),
        (estimate()[:2], "sums are estimated"),
    ):
        assert not hasattr(result, "verified")
        for name in ("verified", "error", "delta"):
            with pytest.raises(NoGuaranteeError, match=rf"Estimate has no {name}.*{reason}"):
                getattr(result, name)
        with pytest.raises(AttributeError, match="no attribute 'radius'"):
            _ = result.radius
    assert issubclass(NoGuaranteeError, UnsoundError)


def test_what_a_certificate_says_of_its_set_holds_for_any_of_its_examples():
    for threat in (ad.LinfBall(torch.rand(6) / 10), ad.Box(X - 0.1, X + 0.1)):
        parts = [net(threat.select(X, at))(X[at], Y[at]) for at in torch.arange(6).split(2)]
        whole = ad.certify(net().model, threat)(X, Y)
        assert parts[0].threat == whole.threat == whole[:1].threat
        assert "6" not in whole.threat.replace("6 of 6", "")
        assert (whole.eps is None) == isinstance(threat, ad.Box)
        same(ad.Certificate.cat(parts), net(threat)(X, Y))
