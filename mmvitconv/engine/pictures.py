"""Pictures of a test: one for each image, also where folders have files of the same name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitconv.registry import HOOKS

__all__ = ["UniquePicturesHook", "write_classes"]

DRAWING_METHODS = ("add_datasample", "visualize_cls")  # of the visualizers of the three packages


@HOOKS.register_module()
class UniquePicturesHook(Hook):
    """Names the picture of an image after its folder, too, where another has the same name.

    The hooks of mmdet, mmseg and mmpretrain name pictures after the files alone, so that
    ``a/1.png`` would be replaced by ``b/1.png``; here they become ``a__1.png`` and ``b__1.png``.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.UniquePicturesHook")]
    """

    priority = "VERY_HIGH"
    keeps_state = False

    def before_test(self, runner: Runner) -> None:
        """Give the visualizer the names, and what it needs to write those of the classes."""
        write_classes(runner.visualizer)
        dataset = runner.test_loop.dataloader.dataset
        if not hasattr(dataset, "get_data_info"):
            return
        paths = [dataset.get_data_info(number).get("img_path") for number in range(len(dataset))]
        names = unique_names([path for path in paths if isinstance(path, str)])
        if not names:
            return
        for method in DRAWING_METHODS:
            draw = getattr(runner.visualizer, method, None)
            if draw is not None:
                setattr(runner.visualizer, method, _renamed(draw, names))

    def after_test(self, runner: Runner) -> None:
        """Give the visualizer its own methods back."""
        for method in (*DRAWING_METHODS, "draw_texts"):
            vars(runner.visualizer).pop(method, None)


def write_classes(visualizer: Any) -> None:
    """Let names of classes be written in fonts that have their letters, else as numbers.

    Args:
        visualizer: Of the run; changed in place.
    """
    from mmvitconv.engine.fonts import DEFAULT_FONT, drawable, fonts_for  # matplotlib

    meta = getattr(visualizer, "dataset_meta", None) or {}
    classes = list(map(str, meta.get("classes") or ()))
    names, fonts = list(map(drawable, classes)), fonts_for("".join(classes))
    if names != classes:
        visualizer.dataset_meta = {**meta, "classes": tuple(names)}
    if fonts == [DEFAULT_FONT]:
        return
    draw = visualizer.draw_texts

    def draw_texts(texts: str | list[str], *args: Any, **kwargs: Any) -> Any:
        number = 1 if isinstance(texts, str) else len(texts)
        return draw(texts, *args, **{"font_families": [fonts] * number, **kwargs})

    visualizer.draw_texts = draw_texts


def unique_names(paths: list[str]) -> dict[str, str]:
    """Return other names for files of equal names.

    Args:
        paths: Of all files.

    Returns:
        Path -> name, for those whose name is not the only one of its kind.

    Examples:
        >>> unique_names(["x/a/1.png", "x/b/1.png", "x/b/2.png"])
        {'x/a/1.png': 'a__1.png', 'x/b/1.png': 'b__1.png'}
    """
    counts = Counter(os.path.basename(path) for path in set(paths))
    twice = [path for path in paths if counts[os.path.basename(path)] > 1]
    if not twice:
        return {}
    root = os.path.commonpath([os.path.dirname(path) for path in twice]) or os.curdir
    return {path: os.path.relpath(path, root).replace(os.sep, "__") for path in twice}


def _renamed(draw: Callable[..., Any], names: dict[str, str]) -> Callable[..., Any]:
    """Return a drawing method that writes under other names."""

    def call(*args: Any, **kwargs: Any) -> Any:
        sample = kwargs.get("data_sample")
        if sample is None:
            sample = next((item for item in args if hasattr(item, "metainfo")), None)
        path = getattr(sample, "img_path", None)
        if path not in names:
            return draw(*args, **kwargs)
        file = os.path.basename(path)

        def rename(value: Any) -> Any:
            if not isinstance(value, str):
                return value
            folder, name = os.path.split(value)
            return os.path.join(folder, name.replace(file, names[path]))

        kwargs = {k: rename(v) if k in ("name", "out_file") else v for k, v in kwargs.items()}
        return draw(*map(rename, args), **kwargs)

    return call
