"""What tools/misc/demo_report.py shares with the predictions."""

import json
import sys
from argparse import Namespace
from importlib import util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmengine.structures import InstanceData
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / "tools/misc/demo_report.py"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool as a module; what it sets for the whole process is put back."""
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(matplotlib, "use", lambda *_: pytest.fail("the backend is changed"))
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    spec = util.spec_from_file_location("demo_report_tool", TOOL)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_images_are_turned_as_for_the_detector(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    file = tmp_path / "a.png"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(file, exif=turned)
    info = {"img_path": str(file), "instances": [], "height": 40, "width": 30}
    found = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0))
    sample = SimpleNamespace(pred_instances=found)
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args, **options: figures.append(self) or save(self, *args, **options),
    )
    dataset = SimpleNamespace(get_data_info=lambda _: info)
    tool.draw_report(dataset, [sample], 0.5, "title", tmp_path / "new" / "a.png")
    assert {axis.images[0].get_array().shape for axis in figures[0].axes} == {(40, 30, 3)}
    assert "matplotlib.pyplot" not in sys.modules
    assert (tmp_path / "new" / "a.png").stat().st_size > 1000


def test_metrics_that_are_no_numbers(
    tool: ModuleType, nuclei_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.json").write_text('{"coco/segm_mAP_50": NaN, "time": 0.5}')
    monkeypatch.setattr(tool, "load_detector", lambda *_: None)
    monkeypatch.setattr(tool, "predict", lambda *_: ([], {}))
    monkeypatch.setattr(tool, "check_data", lambda *_, **__: None)
    monkeypatch.setattr(tool, "draw_report", lambda *_: (tmp_path / "out").mkdir())
    monkeypatch.setattr(tool, "DATASETS", SimpleNamespace(build=lambda _: [0, 0]))
    monkeypatch.setattr(tool, "init_default_scope", lambda _: None)
    options = Namespace(
        config=Path("maskrcnn_fcvit_tiny_nuclei"),  # a shipped one, by its name
        checkpoint=tmp_path / "best.pth",
        out_dir=tmp_path / "out",
        metrics_from=tmp_path / "metrics.json",
        rows=1,
        score_threshold=0.5,
        train_seconds=None,
    )
    _, summary = tool.report(options)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(summary.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["metrics"] == {"coco/segm_mAP_50": None, "time": 0.5}
    assert tool.headline(content["metrics"]) == "no AP50 in the metrics"
