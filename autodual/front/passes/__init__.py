"""Rewrites from graph to graph. The pipeline is this tuple, run in this order."""

from __future__ import annotations

from dataclasses import replace

from autodual.front.ir import Graph, check
from autodual.front.passes.attention import attend
from autodual.front.passes.batch_norm import nominal_batch_norm
from autodual.front.passes.conditions import decide
from autodual.front.passes.constants import fill_by_shape
from autodual.front.passes.dead_code import remove_dead_code
from autodual.front.passes.flattened import unflatten_linear
from autodual.front.passes.fourier import pair_complex
from autodual.front.passes.identities import remove_identities
from autodual.front.passes.max_pool import slice_max_pools
from autodual.front.passes.normalization import normalize
from autodual.front.passes.own_weights import set_apart
from autodual.front.passes.pointwise import spell_out
from autodual.front.passes.products import pair_up
from autodual.front.passes.quotients import bound_quotients
from autodual.front.passes.ranges import note_ranges
from autodual.front.passes.reductions import fold_reductions
from autodual.front.passes.reshapes import views_to_reshapes
from autodual.front.passes.softmax import share_out
from autodual.front.passes.stop_gradient import stop_gradients

PIPELINE = (
    views_to_reshapes,
    remove_dead_code,
    fill_by_shape,
    unflatten_linear,
    set_apart,
    nominal_batch_norm,
    stop_gradients,
    pair_complex,
    remove_identities,
    decide,
    remove_dead_code,
    spell_out,
    attend,
    bound_quotients,
    normalize,
    share_out,
    slice_max_pools,
    fold_reductions,
    pair_up,
    remove_dead_code,
    note_ranges,
)


SAME_NUMBERS = frozenset(
    {
        views_to_reshapes,
        remove_dead_code,
        fill_by_shape,
        unflatten_linear,
        set_apart,
        stop_gradients,
        remove_identities,
        slice_max_pools,
        note_ranges,
    }
)
"""Those after which the same numbers are computed, but for the order in which sums are added up."""

TELLING = frozenset({decide, spell_out, attend, normalize, share_out, fold_reductions, pair_up})
"""Those that say of each op what libraries may compute for it."""


def simplify(graph: Graph) -> Graph:
    """Run the whole pipeline, checking the graph after every pass that changes it.

    Views come first: what they read may lie otherwise in memory than it did when captured.
    """
    for rewrite in PIPELINE:
        rewritten = rewrite(graph)
        if rewritten is graph:
            continue
        if rewrite not in TELLING:
            own = () if rewrite in SAME_NUMBERS else (f"the pass {rewrite.__name__}",)
            rewritten = replace(rewritten, rewritten=(*graph.rewritten, *own))
        graph = check(rewritten)
    return graph
