"""Run an exported classifier, segmentor or detector: python run_onnx.py FILE.onnx IMAGE.

For a file of ``mmvitconv export CONFIG CHECKPOINT --preprocess``. It needs numpy, OpenCV and
onnxruntime, and nothing else; copy it where you deploy.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def resize(image: np.ndarray, steps: list[dict]) -> np.ndarray:
    """Bring an image to the size that the model was tested with, as its pipeline does."""
    for step in steps:
        (height, width), kind = image.shape[:2], step["type"].split(".")[-1]
        size = step.get("scale", step.get("crop_size"))
        size = (size, size) if isinstance(size, int) else size
        if kind == "CenterCrop":
            top, left = max(0, round((height - size[1]) / 2)), max(0, round((width - size[0]) / 2))
            image = image[top : top + size[1], left : left + size[0]]
            continue
        if kind == "ResizeEdge":  # the short side
            size = [round(side * size[0] / min(height, width)) for side in (width, height)]
        elif step.get("keep_ratio"):  # both sides within the two numbers
            scale = min(max(size) / max(height, width), min(size) / min(height, width))
            size = [int(side * scale + 0.5) for side in (width, height)]
        image = cv2.resize(image, tuple(size), interpolation=cv2.INTER_LINEAR)
    return image


def predict(file: str, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs of a file for an image as OpenCV reads it (blue first)."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    steps = json.loads(session.get_modelmeta().custom_metadata_map["pipeline"])
    feeds = {"pixels": np.ascontiguousarray(resize(image, steps)[None]),
             "size": np.array(image.shape[:2], dtype=np.int64)}  # fmt: skip
    wanted = [node.name for node in session.get_inputs()]
    outputs = session.run(None, {name: feeds[name] for name in wanted})
    return dict(zip([node.name for node in session.get_outputs()], outputs, strict=True))


if __name__ == "__main__":
    for name, values in predict(sys.argv[1], cv2.imread(sys.argv[2])).items():
        print(name, values.shape, values[:5].tolist() if values.ndim < 3 else "")
