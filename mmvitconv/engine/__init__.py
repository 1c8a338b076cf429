"""What runs the training: hooks, wrappers, optimizer constructor and the command-line tools.

The package itself imports nothing, so that a tool names a mistake before torch is loaded. MMEngine
imports the modules that :mod:`mmvitconv.registry` names when it meets a type with the prefix
``mmvitconv.``. OpenMMLab's task packages (mmdet, mmseg, mmpretrain) are not imported here.
"""
