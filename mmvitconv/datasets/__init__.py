"""What the data sets need: tiny real ones for a first run, and checks of a user's folders.

* :mod:`~mmvitconv.datasets.nuclei`, :mod:`~mmvitconv.datasets.trees` and
  :mod:`~mmvitconv.datasets.mnist` turn real images that ship inside PyPI packages into COCO json,
  ADE20K-style png and ImageNet-style folders.
* :mod:`~mmvitconv.datasets.layout` tells, before training starts, which paths of a config are
  missing.
* :mod:`~mmvitconv.datasets.check` looks through a COCO, ADE20K or ImageNet folder.
"""
