"""Honest times: jobs take turns in one process, medians are compared, never absolute seconds."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

Job = Callable[[], object]


def alternate(jobs: Mapping[str, Job], runs: int) -> dict[str, float]:
    """Return the median seconds of each job over ``runs`` turns, after one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(runs + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def count_flops(job: Job) -> int:
    """Count the FLOPs of a job's products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        job()
    return counter.get_total_flops()


def gemm_rate(runs: int = 9) -> float:
    """Measure this machine's matrix products, FLOPs per second in float32."""
    n = 1024
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2 * n**3 / alternate({"gemm": lambda: a @ b}, runs)["gemm"]


def peak_gigabytes() -> float:
    """Return the most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
