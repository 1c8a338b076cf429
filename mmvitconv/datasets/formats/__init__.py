"""Data sets as annotation tools export them, read into one kind of record.

One module a format; each has ``read(tree)``, which returns the records of its files, or none. A new
format is one module and its line in :data:`mmvitconv.datasets.formats.reading.READERS`.

* :mod:`~mmvitconv.datasets.formats.records` is what all of them are read into.
* :mod:`~mmvitconv.datasets.formats.tree` finds files, whatever an annotation calls them.
* :mod:`~mmvitconv.datasets.formats.reading` chooses the reader, and divides into splits.
* :mod:`~mmvitconv.datasets.formats.writing` writes COCO json, maps of class numbers and lists.

Libraries were looked at: ``globox`` reads boxes only, ``supervision`` brings a video codec and
reads neither labelme, CVAT nor Label Studio.
"""
