"""Numbers in print, on a few images. Runs when AUTODUAL_DATA names the folder with the data."""

import os
import sys
from pathlib import Path

import pytest

import autodual as ad

DATA = os.environ.get("AUTODUAL_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="AUTODUAL_DATA is not set")
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))


def test_wk_mnist_on_a_few_images():
    from networks import mnist_test, wk_mnist

    x, y = mnist_test(Path(DATA))
    certificate = ad.certify(wk_mnist(Path(DATA)), 0.1, bounds="dual", slopes="equal")(
        x[:100], y[:100]
    )
    assert int((~certificate.verified).sum()) == 4
