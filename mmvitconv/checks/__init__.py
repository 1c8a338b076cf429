"""Checks of what a run is fed and what it computes.

* :mod:`~mmvitconv.checks.config` checks all the data of a config before a run,
  :mod:`~mmvitconv.checks.bad_data` each sample during a run; both take what is wrong with a sample
  from :mod:`~mmvitconv.checks.samples` and :mod:`~mmvitconv.checks.annotations`.
* :mod:`~mmvitconv.checks.non_finite` stops a run, or skips the step, at a loss or gradient that is
  not finite; :mod:`~mmvitconv.checks.diagnosis` finds out where it came from.

The hooks are registered through the locations in :mod:`mmvitconv.registry`.
"""
