"""What the data sets need: transforms and samplers of the recipes, and the layout of folders.

* :mod:`~mmvitconv.datasets.multiscale` draws a crop size per batch.
* :mod:`~mmvitconv.datasets.layout` says, before training starts, which paths of a config are
  missing.
* :mod:`~mmvitconv.datasets.first_runs` makes tiny real data sets for a first run.
"""
