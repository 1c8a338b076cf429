"""The original authors' key layouts, one module each.

A module defines

* ``is_original(keys) -> bool``: whether these backbone keys are in the original layout;
* ``convert(state_dict) -> dict``: keys without wrapper prefixes -> ``backbone.*``, ``neck.*`` and
  ``head.*``, raising :class:`~mmvitconv.errors.CheckpointError` with a list when a key is left over
  or missing.
"""
