"""From a graph and its dual layers to bounds: plan, layers, rows, sums."""
