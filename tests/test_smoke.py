"""What must hold on every OpenMMLab stack and has no test elsewhere.

``pytest -m smoke`` runs these, and the tests with that marker in other files: the doctor, the
building of every config, exact resuming, and the reference numbers.
"""

import json

import pytest
from processes import ROOT, run_python

FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("mmvitconv", "tools")
    for path in (ROOT / folder).rglob("*.py")
)

pytestmark = pytest.mark.smoke

IMPORT_EACH = """
import importlib, json, runpy, sys, traceback, os

failed = {}
for file in sys.argv[1:]:
    try:
        if file.startswith('tools/'):  # scripts, which find what lies beside them
            sys.path.insert(0, os.path.dirname(file))
            runpy.run_path(file, run_name='imported')
            del sys.path[0]
        else:
            name = file.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
            importlib.import_module(name)
    except Exception:
        failed[file] = traceback.format_exc()
print(json.dumps(failed))
"""


def run(*arguments: object) -> str:
    """Run Python from the repository root in a fresh interpreter; gives what it printed."""
    return run_python("-W", "ignore", *arguments).stdout


@pytest.fixture(scope="module")
def failed_imports() -> dict[str, str]:
    """Traceback by file, of all that one fresh interpreter could not import."""
    return json.loads(run("-c", IMPORT_EACH, *FILES).splitlines()[-1])


@pytest.mark.parametrize("file", FILES)
def test_import(file: str, failed_imports: dict[str, str]):
    assert file not in failed_imports, failed_imports[file]


# Two epochs or two iterations of one batch each, and one batch to evaluate.
SHORT = (
    *("train_cfg.val_interval=1", "default_hooks.checkpoint.interval=1"),
    *("val_dataloader.num_batch_per_epoch=1", "test_dataloader.num_batch_per_epoch=1"),
)
EPOCHS = (*SHORT, "train_dataloader.num_batch_per_epoch=1")


@pytest.mark.parametrize(
    ("name", "data", "unit", "options", "metrics"),
    [
        ("fcvit_tiny_mnist", "mnist", "epoch", EPOCHS, ["accuracy/top1"]),
        (
            *("retinanet_fcvit_tiny_trees", "trees", "epoch"),
            # a focal loss's prior lies below the usual threshold
            (*EPOCHS, "model.test_cfg.score_thr=0.0"),
            ["coco/bbox_mAP"],
        ),
        (
            *("maskrcnn_fcvit_tiny_nuclei", "nuclei", "epoch"),
            *(EPOCHS, ["coco/bbox_mAP", "coco/segm_mAP"]),
        ),
        ("upernet_fcvit_tiny_nuclei", "nuclei", "iter", SHORT, ["aAcc", "mIoU"]),
    ],
)
def test_train_resume_test(name, data, unit, options, metrics, tmp_path, request):
    root = request.getfixturevalue(f"{data}_root")
    assert root.is_relative_to(ROOT / "data"), "where the configs look for it"
    config, options = f"configs/fcvit/{name}.py", ("--cfg-options", *options)
    training = ("tools/train.py", config, "--work-dir", tmp_path)
    run(*training, *options, f"train_cfg.max_{unit}s=1")
    output = run(*training, "--resume", *options, f"train_cfg.max_{unit}s=2")
    assert f"resuming from {tmp_path / unit}_1.pth" in output
    checkpoint = tmp_path / f"{unit}_2.pth"
    output = run("tools/test.py", config, checkpoint, "--work-dir", tmp_path / "test", *options)
    for metric in metrics:
        assert f"\n{metric}: " in output
