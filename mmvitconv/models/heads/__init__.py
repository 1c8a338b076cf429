"""Heads that subclass mmdet's and mmseg's.

Importing this package imports nothing. A config that uses a head imports its module:
``custom_imports = dict(imports=['mmvitconv.models.heads.ssdlite'], allow_failed_imports=False)``.
"""
