import json
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apis.tiny import CONFIGS
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmvitconv.apis import Predictor
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.zoo.loading import read_names

ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # to be displayed turned by a quarter


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A smooth random image: what a camera could have taken."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def numbers(prediction: Any) -> list[np.ndarray]:
    """Everything that a prediction says."""
    names = ("labels", "scores", "boxes", "masks", "class_map")
    return [value for name in names if (value := getattr(prediction, name, None)) is not None]


def assert_same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    assert (one.width, one.height) == (other.width, other.height)
    assert len(numbers(one)) == len(numbers(other)) >= 1
    for left, right in zip(numbers(one), numbers(other), strict=True):
        assert left.shape == right.shape
        if left.dtype == bool or left.dtype == np.uint8:  # a rounding may move an edge
            assert np.sum(left != right) <= (1e-3 if tolerance else 0) * left.size
        else:
            np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("task", sorted(CONFIGS))
def test_predictions_are_those_of_a_test(
    task: str, predictors: dict[str, Predictor], nuclei_root: Path, mnist_root: Path
) -> None:
    predictor = predictors[task]
    cfg = load_config(str(CONFIGS[task]))
    settings = cfg.test_dataloader.dataset
    settings.data_root = str(mnist_root if task == "classification" else nuclei_root)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(settings)
    for index in (0, len(dataset) - 1):
        batch = pseudo_collate([dataset[index]])
        with torch.no_grad():
            (expected,) = predictor.model.test_step(batch)
        (found,) = predictor.predict(expected.img_path, score_threshold=0.0, top_k=10)
        if task == "classification":
            order = expected.pred_score.argsort(descending=True)
            assert np.array_equal(found.labels, order)
            assert np.array_equal(found.scores, expected.pred_score[order])
        elif task == "segmentation":
            assert np.array_equal(found.class_map, expected.pred_sem_seg.data[0])
            assert len(np.unique(found.class_map)) == 2
        else:
            objects = expected.pred_instances
            assert len(objects) > 5
            assert np.array_equal(found.boxes, objects.bboxes)
            assert np.array_equal(found.scores, objects.scores)
            assert np.array_equal(found.labels, objects.labels)
            assert np.array_equal(found.masks, objects.masks)


def test_a_batch_changes_no_result(predictor: Predictor) -> None:
    sizes = [(96, 96), (64, 80), (96, 96), (97, 96), (80, 64), (96, 96), (64, 80)]
    images = [noise(*size, seed) for seed, size in enumerate(sizes)]
    single = [predictor.predict(image)[0] for image in images]
    together = predictor.predict(images, batch_size=3)
    assert [(result.width, result.height) for result in together] == sizes
    assert [result.image for result in together] == [f"image {n}" for n in range(7)]
    for one, other in zip(single, together, strict=True):
        assert_same(one, other, tolerance=1e-4)
    assert any(
        not np.array_equal(numbers(together[0])[-1], numbers(together[index])[-1])
        for index in (2, 5)
    )


def test_images_of_one_shape_share_a_forward_pass(
    predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictors["classification"]
    batches = []
    forward = predictor._forward
    monkeypatch.setattr(
        predictor, "_forward", lambda batch: batches.append(len(batch)) or forward(batch)
    )
    assert len(predictor.predict([noise(28, 28)] * 7, batch_size=4)) == 7
    assert batches == [4, 3]


def test_large_outputs_do_not_pile_up(
    predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = predictors["segmentation"]
    logits: list[weakref.ref] = []
    kept = []
    step = predictor.model.test_step

    def forward(batch: dict[str, Any]) -> list[Any]:
        kept.append(sum(one() is not None for one in logits))
        outputs = step(batch)
        logits.extend(weakref.ref(output.pred_sem_seg.data) for output in outputs)
        return outputs

    monkeypatch.setattr(predictor.model, "test_step", forward)
    results = predictor.predict([noise(64, 64, seed) for seed in range(4)], batch_size=1)
    assert kept == [0] * 4
    assert [result.class_map.shape for result in results] == [(64, 64)] * 4


@pytest.mark.parametrize(
    ("loading", "size", "suffix"),
    [
        ({"color_type": "color"}, (30, 40), ".png"),
        ({"color_type": "color_ignore_orientation"}, (40, 30), ".png"),
        ({"color_type": "color", "imdecode_backend": "pillow"}, (30, 40), ".png"),
        ({"imdecode_backend": "pillow", "color_type": "unchanged"}, (40, 30), ".png"),
        (
            {"color_type": "color", "imdecode_backend": "pillow", "to_float32": True},
            (40, 30),
            ".ico",
        ),
    ],
    ids=["turned", "as-stored", "pillow", "unchanged", "pillow-only"],
)
def test_the_picture_shows_what_the_model_saw(
    loading: dict[str, Any], size: tuple[int, int], suffix: str, tmp_path: Path
) -> None:
    cfg = load_config(str(CONFIGS["segmentation"]))
    cfg.test_dataloader.dataset.pipeline[0].update(loading)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictor = Predictor(cfg, device="cpu")
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[..., 0] = 200  # red
    file = tmp_path / f"a{suffix}"
    options = {".png": {"exif": ROTATED}, ".ico": {"sizes": [(40, 30)]}}.get(suffix, {})
    Image.fromarray(pixels).save(file, **options)
    (found,) = predictor.predict(file)
    assert (found.width, found.height) == size
    picture = found.draw()
    red, _, blue = picture[-5, 5].tolist()
    assert red >= blue + 50


def test_an_iterator_is_read_step_by_step(predictors: dict[str, Predictor]) -> None:
    taken = []

    def frames() -> Any:
        for number in range(100):
            taken.append(number)
            yield noise(28, 28, number)

    results = predictors["classification"](frames(), batch_size=1)
    next(results)
    assert len(taken) < 10


def save_plain(image: Image.Image, file: Path) -> None:
    image.save(file)


LOSSLESS: dict[str, tuple[str, Callable[[Image.Image, Path], None]]] = {
    "bmp": (".bmp", save_plain),
    "upper-case-suffix": (".PNG", save_plain),
    "rgba": (".png", lambda image, file: image.convert("RGBA").save(file)),
    "tiff": (".tif", save_plain),
    "webp": (".webp", lambda image, file: image.save(file, lossless=True)),
    "exif": (
        ".png",
        lambda image, file: image.transpose(Image.Transpose.ROTATE_90).save(file, exif=ROTATED),
    ),
    "cmyk": (".tif", lambda image, file: image.convert("CMYK").save(file)),
    "unicode-name": (" ядро 核.png", save_plain),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_an_image_is_what_it_shows_in_any_format(
    kind: str, predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    predictor = predictors["classification"]
    suffix, save = LOSSLESS[kind]
    pixels = noise(40, 30)
    save(Image.fromarray(pixels), tmp_path / f"a{suffix}")
    (found,) = predictor.predict(tmp_path / f"a{suffix}")
    (expected,) = predictor.predict(pixels)
    assert_same(found, expected, tolerance=0.01 if kind == "cmyk" else 0.0)
    assert (found.width, found.height) == (40, 30)


def test_gray_images_and_other_depths(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    predictor = predictors["classification"]
    gray = noise(40, 30)[..., 0]
    deep = gray.astype(np.uint16) * 257
    for number, image in enumerate((gray, deep)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    same = [
        tmp_path / "0.png",
        tmp_path / "1.png",
        gray,
        gray[..., None],
        np.stack([gray] * 3, axis=2),
        np.stack([gray] * 4, axis=2),
        deep,
        deep.astype(">u2"),
        Image.fromarray(gray),
        Image.fromarray(deep),
        Image.fromarray(gray).convert("P"),
        Image.open(tmp_path / "1.png"),
        Image.fromarray(gray.astype(np.int32)),
        Image.fromarray(deep.astype(np.int32)),
    ]
    results = predictor.predict(same, batch_size=len(same))
    for result in results[1:]:
        assert_same(results[0], result, tolerance=1e-5)


class ReadsFiles(LoadImageFromFile):
    """Loads images, though its name does not say so."""


def test_a_loader_is_known_by_what_it_is(
    checkpoints: dict[str, Path], predictors: dict[str, Predictor]
) -> None:
    cfg = load_config(str(CONFIGS["classification"]))
    cfg.test_dataloader.dataset.pipeline[0].type = ReadsFiles
    predictor = Predictor(cfg, checkpoints["classification"], "cpu")
    (found,) = predictor.predict(noise(40, 30))
    assert_same(found, predictors["classification"].predict(noise(40, 30))[0])


def test_folding_changes_rounding_only(
    checkpoints: dict[str, Path], predictors: dict[str, Predictor]
) -> None:
    plain = Predictor(CONFIGS["classification"], checkpoints["classification"], "cpu", fold=False)
    folded = predictors["classification"]
    assert len(folded.model.state_dict()) < len(plain.model.state_dict())
    plain.model.train()
    with pytest.raises(RuntimeError, match="folded for inference"):
        folded.model.train()
    plain.model.eval()
    image = noise(40, 30)
    assert_same(plain.predict(image)[0], folded.predict(image)[0], tolerance=1e-4)


def test_arrays_are_rgb(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    predictor = predictors["classification"]
    pixels = noise(40, 30)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    file, array, pillow, swapped = predictor.predict(
        [tmp_path / "a.png", pixels, Image.fromarray(pixels), pixels[..., ::-1]]
    )
    assert_same(file, array)
    assert_same(file, pillow)
    assert not np.array_equal(file.scores, swapped.scores)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (700, 3), (1000, 1), (193, 191)])
def test_sizes(size: tuple[int, int], predictor: Predictor) -> None:
    (result,) = predictor.predict(noise(*size))
    assert (result.width, result.height) == size
    width, height = size
    if result.task == "segmentation":
        assert result.class_map.shape == (height, width)
    if result.task == "detection":
        assert result.masks.shape[1:] == (height, width)
        left, top, right, bottom = result.boxes.T
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (right <= width).all()
        assert (bottom <= height).all()
    json.dumps(result.to_json(), allow_nan=False)
    picture = result.draw()
    assert picture.dtype == np.uint8
    assert picture.shape[0] > height
    assert picture.shape[1] >= width
    assert picture.shape[2] == 3


def test_broken_files_are_named_and_left_out(
    predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    predictor = predictors["classification"]
    Image.fromarray(noise(200, 200)).save(tmp_path / "good.jpg")
    content = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("never looked at")
    (tmp_path / ".hidden.png").write_text("never looked at")
    Image.fromarray(noise(40, 30)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="left out") as caught:
        results = predictor.predict(tmp_path)
    assert [Path(result.image).name for result in results] == ["good.jpg", "whole.png"]
    assert len(caught) == 4
    assert "cut.jpg" in str(caught[0].message)
    errors = []
    predictor.predict(tmp_path, on_error=lambda *error: errors.append(error), batch_size=1)
    assert [Path(image).name for image, _ in errors] == [
        "cut.jpg",
        "empty.png",
        "half.png",
        "text.png",
    ]
    (tmp_path / "good.jpg").unlink()
    (tmp_path / "whole.png").unlink()
    with pytest.raises(UserError, match=r"none of the 4 images.*cut\.jpg"):
        predictor.predict(tmp_path, on_error=lambda *_: None)


def test_scores_below_the_threshold_are_left_out(predictors: dict[str, Predictor]) -> None:
    image = noise(96, 96)
    detector = predictors["detection"]
    (everything,) = detector.predict(image, score_threshold=0.0)
    assert len(everything.scores) > 5
    threshold = float(np.median(everything.scores))
    (some,) = detector.predict(image, score_threshold=threshold)
    assert 0 < len(some.scores) < len(everything.scores)
    assert some.scores.min() >= threshold
    assert len(some.masks) == len(some.boxes) == len(some.labels) == len(some.scores)
    assert np.array_equal(some.masks, everything.masks[: len(some.scores)])
    assert everything.above(1.0).masks.shape == (0, 96, 96)
    (result,) = predictors["classification"].predict(image, top_k=3)
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    assert len(result.labels) == 3
    assert result.names[0] == f"digit {result.labels[0]}"
    assert len(result.above(result.scores[0]).labels) == 1


def test_names_of_classes() -> None:
    classes = ("a", "b")
    trained = {"meta": {"dataset_meta": {"classes": classes, "palette": [[1, 2, 3], [4, 5, 6]]}}}
    configured = {"type": "CocoDataset", "metainfo": {"classes": ("c",)}}
    assert read_names(trained, configured) == (classes, ((1, 2, 3), (4, 5, 6)))
    for content in (None, {}, {"meta": 3}, {"meta": {"dataset_meta": {"classes": "abc"}}}):
        assert read_names(content, configured)[0] == ("c",)
    names, palette = read_names(None, {"type": "mmseg.ADE20KDataset"})
    assert names[:2] == ("wall", "building")
    assert len(names) == len(palette) == 150
    assert read_names(None, {"type": "mmpretrain.CustomDataset"}) == ((), ())
    wrong = {"type": "CocoDataset", "metainfo": {"classes": ("c",), "palette": [(1, 2, 999)]}}
    assert read_names(None, wrong) == (("c",), ())


def test_random_weights_are_the_same_each_time() -> None:
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="weights are random"):
        first = Predictor(CONFIGS["classification"], device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = Predictor(load_config(str(CONFIGS["classification"])), device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert first.name == second.name == "fcvit_tiny_mnist"
    assert first.classes == ()
    image = noise(28, 28)
    one, other = first.predict(image)[0], second.predict(image)[0]
    assert_same(one, other)
    assert one.names == [str(label) for label in one.labels]


def test_options_change_the_config(checkpoints: dict[str, Path]) -> None:
    predictor = Predictor(
        CONFIGS["detection"],
        checkpoints["detection"],
        "cpu",
        cfg_options={"model.test_cfg.rcnn.max_per_img": 3},
    )
    assert len(predictor.predict(noise(96, 96), score_threshold=0.0)[0].scores) == 3


def test_mistakes_of_the_config_and_checkpoint(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS["classification"]
    with pytest.raises(UserError, match="does not hold the weights of this config's model"):
        Predictor(config, checkpoints["segmentation"], "cpu")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(checkpoints["classification"].read_bytes()[:5000])
    with pytest.raises(UserError, match=r"broken\.pth"):
        Predictor(config, broken, "cpu")
    with pytest.raises(UserError, match="does not exist"):
        Predictor(config, tmp_path / "missing.pth", "cpu")
    with pytest.raises(UserError, match="no config file"):
        Predictor(tmp_path / "missing.py")
    with pytest.raises(UserError, match="default_scope"):
        Predictor(config, None, "cpu", cfg_options={"default_scope": "mmpose"})
    with pytest.raises(UserError, match="did you mean"):
        Predictor(config, None, "cpu", cfg_options={"model.backbone.layer_scale_init_valu": 1})
    with pytest.raises(UserError, match="'toaster' cannot be used"):
        Predictor(config, None, "toaster")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"'cuda:77' cannot be used.*cpu only"):
        Predictor(config, None, "cuda:77")
    cfg = load_config(str(config))
    cfg.test_dataloader.dataset.pipeline = []
    with pytest.raises(UserError, match="must begin with LoadImageFromFile"):
        Predictor(cfg, None, "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"batch_size": -2}, "batch size must be at least 1, got -2"),
        ({"score_threshold": 1.5}, "between 0 and 1, got 1.5"),
        ({"score_threshold": float("nan")}, "between 0 and 1, got nan"),
        ({"top_k": 0}, "top-k must be at least 1"),
    ],
)
def test_mistakes_in_numbers(
    options: dict[str, Any], message: str, predictors: dict[str, Predictor]
) -> None:
    with pytest.raises(UserError, match=message):
        predictors["classification"](noise(28, 28), **options)  # at once, not when iterated


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("missing.png", r"no image or folder 'missing\.png'"),
        ([], "no images were given"),
        (iter([]), "^no images were given$"),
        ("https://a.b/c.png", "read from disk: download 'https://a.b/c.png' first"),
        (Path("https://a.b/c.png"), "read from disk: download"),
        (5, "paths, numpy arrays"),
        ([5], "an image is a path"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
    ],
    ids=[
        "missing",
        "none",
        "no more",
        "address",
        "address as path",
        "number",
        "numbers",
        "channels",
        "empty",
        "float",
    ],
)
def test_mistakes_in_images(images: Any, message: str, predictors: dict[str, Predictor]) -> None:
    with pytest.raises(UserError, match=message):
        predictors["classification"].predict(images)


def test_folders(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    predictor = predictors["classification"]
    with pytest.raises(UserError, match="holds no image"):
        predictor.predict(tmp_path)
    (tmp_path / "inside").mkdir()
    Image.fromarray(noise(28, 28)).save(tmp_path / "inside" / "a.png")
    with pytest.raises(UserError, match="recursive"):
        predictor.predict(tmp_path)
    assert len(predictor.predict(tmp_path, recursive=True)) == 1
