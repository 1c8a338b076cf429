import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvitconv.apis import Predictor, save_predictions
from mmvitconv.apis.output import name_outputs
from mmvitconv.errors import UserError


def save_noise(file: Path, width: int = 40, height: int = 30) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(len(file.name))
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_everything_is_written(predictor: Predictor, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("a.png", "b.png", "ядро/a.png"):
        save_noise(images / name)
    (images / "broken.jpg").write_text("no image")
    out = tmp_path / "new" / "out"
    summary = save_predictions(
        predictor, images, out, batch_size=2, score_threshold=0.0, recursive=True
    )
    maps = ["a.classes.png", "b.classes.png", "ядро/a.classes.png"]
    pictures = ["a.png", "b.png", "ядро/a.png"]
    is_segmentation = predictor.task == "segmentation"
    expected = [*pictures, "predictions.json", *(maps if is_segmentation else [])]
    assert files(out) == sorted(expected)
    content = json.loads(summary.file.read_text(encoding="utf-8"))
    assert content["config"] == predictor.name
    assert content["checkpoint"] == predictor.checkpoint
    assert content["task"] == predictor.task
    assert content["classes"] == list(predictor.classes)
    assert [entry["picture"] for entry in content["predictions"]] == pictures
    (error,) = content["errors"]
    assert Path(error["image"]).name == "broken.jpg"
    assert "decoded" in error["error"]
    assert (summary.images, len(summary.errors)) == (3, 1)
    assert summary.seconds > 0
    results = predictor.predict([images / name for name in pictures], score_threshold=0.0)
    for entry, result in zip(content["predictions"], results, strict=True):
        assert (entry["width"], entry["height"]) == (40, 30)
        written = {key: entry[key] for key in result.to_json()}
        assert written.keys() == result.to_json().keys()
        assert np.array_equal(
            np.asarray(Image.open(out / entry["picture"])).shape, result.draw().shape
        )
        if predictor.task == "classification":
            assert entry["names"][0].startswith("digit ")
            assert len(entry["labels"]) == len(entry["scores"]) == 5
        elif is_segmentation:
            class_map = np.asarray(Image.open(out / entry["class_map"]))
            assert class_map.shape == (30, 40)
            for part in entry["pixels"]:
                assert part["name"] == predictor.classes[part["label"]]
                assert (class_map == part["label"]).sum() == part["pixels"] > 0
            assert sum(part["pixels"] for part in entry["pixels"]) == 1200
        else:
            from pycocotools import mask

            assert len(entry["masks"]) == len(entry["boxes"]) == len(entry["scores"]) > 0
            assert mask.decode(entry["masks"][0]).shape == (30, 40)
            assert set(entry["names"]) == {"nucleus"}


def test_names_stay_apart(tmp_path: Path) -> None:
    def named(*names: str) -> list[str]:
        return name_outputs(tmp_path, [tmp_path / name for name in names])

    assert named("a.png", "b.jpg", "c/a.png") == ["a", "b", "c/a"]
    assert named("a.png", "a.jpg", "b.png") == ["a.png", "a.jpg", "b.png"]
    assert named("a.png", "A.jpg") == ["a.png", "A.jpg"]  # on disks that ignore the case
    assert named("a.png", "a.classes.png") == ["a.png", "a.classes.png"]
    single = tmp_path / "x.tar.png"
    save_noise(single)
    assert name_outputs(single, [single]) == ["x.tar"]


def test_images_are_never_overwritten(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    for name in ("n/a.jpg", "n/a.png", "n/inside/a.png"):
        save_noise(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "n")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    folder = tmp_path / "n"
    for place in (folder, folder / "a.jpg", folder / "a.png", tmp_path / "link" / "a.png"):
        for out in (folder, tmp_path / "link", folder / "inside" / ".."):
            with pytest.raises(UserError, match=r"--out .* is the folder of the images; give"):
                save_predictions(predictors["classification"], place, out)
    for out in (folder, folder / "inside"):
        with pytest.raises(UserError, match=r"--out .* is the folder of the images; give"):
            save_predictions(predictors["classification"], folder, out, recursive=True)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_a_result_never_replaces_an_image_elsewhere(
    predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    folder = tmp_path / "n"
    save_noise(folder / "b.jpg")
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.png").symlink_to(folder / "b.jpg")
    with pytest.raises(UserError, match="would replace an image"):
        save_predictions(predictors["classification"], folder, out)


def test_an_image_that_vanishes_is_an_error(
    predictors: dict[str, Predictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        save_noise(tmp_path / "n" / name)
    predictor = predictors["classification"]
    run_batch = predictor._run_batch

    def vanish(images: list, top_k: int) -> list:
        (tmp_path / "n" / "a.png").unlink()
        return run_batch(images, top_k)

    monkeypatch.setattr(predictor, "_run_batch", vanish)
    summary = save_predictions(predictor, tmp_path / "n", tmp_path / "out")
    content = json.loads(summary.file.read_text(encoding="utf-8"))
    assert [entry["picture"] for entry in content["predictions"]] == ["b.png"]
    (error,) = content["errors"]
    assert Path(error["image"]).name == "a.png"
    assert "cannot be read" in error["error"]


def test_results_inside_the_folder_are_no_images(
    predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    save_noise(tmp_path / "a.png")
    for _ in range(2):
        summary = save_predictions(
            predictors["classification"], tmp_path, tmp_path / "out", recursive=True
        )
        assert summary.images == 1
    assert files(tmp_path / "out") == ["a.png", "predictions.json"]


def test_out_may_be_no_file(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    save_noise(tmp_path / "a.png")
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="cannot be written"):
        save_predictions(predictors["classification"], tmp_path / "a.png", tmp_path / "out")


@pytest.mark.parametrize("name", ["loop", "nowhere"])
def test_links_that_lead_nowhere_are_named(predictor: Predictor, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    with pytest.raises(UserError, match=name):
        save_predictions(predictor, tmp_path / name, tmp_path / "out")
