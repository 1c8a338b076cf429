"""Architectures: their names, sizes, costs and published results, and the way to a model."""
