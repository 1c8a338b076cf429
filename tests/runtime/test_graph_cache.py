"""The folder of compiled graphs keeps what was used last."""

import os
from pathlib import Path

from mmvitconv.runtime import graph_cache


def test_old_graphs_are_forgotten(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    monkeypatch.setattr(graph_cache, "MOST_KEPT", 25)
    mine = tmp_path / "graphs/mine"
    mine.mkdir(parents=True)
    folders = [graph_cache.folder_of(f"{number:032x}") for number in (0, 1)]
    for age, folder in enumerate(folders):
        (folder / "graph.onnx").write_bytes(bytes(20))
        os.utime(folder, (1000 + age, 1000 + age))
    assert graph_cache.folder_of(f"{0:032x}") == folders[0]  # used again
    newest = graph_cache.folder_of(f"{2:032x}")
    assert set(newest.parent.iterdir()) == {mine, folders[0], newest}
