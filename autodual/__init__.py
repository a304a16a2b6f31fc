"""autodual: a compiler for certified robustness.

``certify(model, eps)`` wraps a model so that it answers with guaranteed bounds over a whole set
of inputs; ``robust_loss`` trains against them.
"""

from __future__ import annotations

from autodual import attack, errors, train
from autodual.bound.estimators import Cauchy, Exact, Geometric, Normal
from autodual.bound.options import Steps
from autodual.certificate import Certificate, Estimate
from autodual.certified import Certified
from autodual.certify import certify
from autodual.formats.onnx import OnnxModel, load_onnx
from autodual.formats.vnnlib import read_vnnlib
from autodual.inputs import Inputs
from autodual.interval import Interval
from autodual.ladder import IBP, LP, MILP, Dual, Optimised, Solution, Solver
from autodual.loss import RobustLoss, robust_loss
from autodual.properties import All, AtLeastOne, Property
from autodual.query import Query
from autodual.report.coverage import Coverage, coverage
from autodual.report.curve import AccuracyCurve, accuracy_curve
from autodual.report.evaluate import Evaluation, evaluate
from autodual.report.gap import GapReport, gap
from autodual.report.selfcheck import SelfCheck, self_check
from autodual.threat import (
    Box,
    L1Ball,
    L2Ball,
    LinfBall,
    Polyhedron,
    ThreatModel,
    Union,
    Wasserstein,
)
from autodual.verifier import Moment, Region, Verdict, X, Y, all_of, any_of, verify
from autodual.working import progress

__version__ = "0.1.0"

__all__ = [
    "IBP",
    "LP",
    "MILP",
    "AccuracyCurve",
    "All",
    "AtLeastOne",
    "Box",
    "Cauchy",
    "Certificate",
    "Certified",
    "Coverage",
    "Dual",
    "Estimate",
    "Evaluation",
    "Exact",
    "GapReport",
    "Geometric",
    "Inputs",
    "Interval",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "Moment",
    "Normal",
    "OnnxModel",
    "Optimised",
    "Polyhedron",
    "Property",
    "Query",
    "Region",
    "RobustLoss",
    "SelfCheck",
    "Solution",
    "Solver",
    "Steps",
    "ThreatModel",
    "Union",
    "Verdict",
    "Wasserstein",
    "X",
    "Y",
    "accuracy_curve",
    "all_of",
    "any_of",
    "attack",
    "certify",
    "coverage",
    "errors",
    "evaluate",
    "gap",
    "load_onnx",
    "progress",
    "read_vnnlib",
    "robust_loss",
    "self_check",
    "train",
    "verify",
]


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
