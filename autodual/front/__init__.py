"""From a model to its graph: capture, passes, and the check that both compute the same."""
