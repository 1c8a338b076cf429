"""A web page on this machine: drop an image, see what one or two models say about it."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmvitconv.apis.inference import DETECTION_THRESHOLD, Predictor
from mmvitconv.apis.results import Classification, Detection, Prediction, Segmentation
from mmvitconv.errors import UserError
from mmvitconv.weights.downloads import title_of

if TYPE_CHECKING:
    import gradio as gr

MAXIMUM_ROWS = 50  # of a table
KEPT_FOR = 600  # seconds until an uploaded file is deleted
MAXIMUM_UPLOAD = "100mb"
UNITS = {"classification": "classes", "detection": "objects", "segmentation": "classes"}
COLUMNS = {kind.task: kind.columns for kind in (Classification, Detection, Segmentation)}
EXPLANATION = (
    "Drop an image: the picture, the table and the time of each model appear below. Nothing leaves "
    "this machine."
)


def build_page(predictors: Sequence[Predictor]) -> gr.Blocks:
    """Build the page.

    Args:
        predictors: The models to compare, side by side.

    Returns:
        The page, to be launched; it loads nothing from the internet and reports nothing.

    Raises:
        UserError: When Gradio is not installed.
    """
    gr = _import_gradio()
    threshold = DETECTION_THRESHOLD if any(p.task == "detection" for p in predictors) else 0.0
    with gr.Blocks(
        title="mmvitconv", analytics_enabled=False, delete_cache=(KEPT_FOR, KEPT_FOR)
    ) as page:
        gr.Markdown(f"# mmvitconv: predictions\n{EXPLANATION}")
        with gr.Row():
            upload = gr.File(label="Image", type="filepath", height=140, elem_id="upload")
            slider = gr.Slider(
                0,
                1,
                value=threshold,
                step=0.01,
                label="Least score of objects and classes",
                elem_id="threshold",
            )
        message = gr.HTML(elem_id="message")
        outputs: list[Any] = [message]
        with gr.Row():
            for number, predictor in enumerate(predictors):
                outputs += _column(gr, predictor, number)
        results = gr.State([])

        def fill(predictions: list[tuple[Prediction, float]], least: float) -> list[Any]:
            """Fill the columns."""
            found = [
                part
                for predictor, (prediction, seconds) in zip(predictors, predictions, strict=True)
                for part in _present(predictor, prediction.above(least), seconds)
            ]
            return ["", *found]

        def predict(path: str, least: float) -> list[Any]:
            """Run the models for a file that was dropped."""
            try:
                predictions = [_time(predictor, path) for predictor in predictors]
                return [*fill(predictions, least), predictions, None]
            except UserError as error:
                return [_sentence(error, path), *["", None, None] * len(predictors), [], None]

        def select(predictions: list[tuple[Prediction, float]], least: float) -> list[Any]:
            """Apply another threshold to the same predictions."""
            return fill(predictions, least) if predictions else [gr.skip() for _ in outputs]

        # the emptied field takes the next image
        upload.upload(predict, [upload, slider], [*outputs, results, upload])
        slider.change(select, [results, slider], outputs, trigger_mode="always_last")
    return page


def serve(
    predictors: Sequence[Predictor], host: str = "127.0.0.1", port: int | None = None
) -> gr.Blocks:
    """Start serving the page in the background.

    Args:
        predictors: The models to compare.
        host: Address to listen on; the default is reached from this machine only.
        port: Where to listen; None takes the first free one from 7860.

    Returns:
        The running page: ``local_url`` is its address, ``block_thread()`` waits for Ctrl-C,
        ``close()`` ends it.

    Raises:
        UserError: When the address or port cannot be used.
    """
    gr = _import_gradio()
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"a port is a number from 1 to 65535, got {port}")
    page = build_page(predictors)
    for predictor in predictors:  # the first pass takes longer than others
        predictor.predict(np.zeros((224, 224, 3), dtype=np.uint8))
    fonts = (["system-ui", "sans-serif"], ["ui-monospace", "monospace"])  # of the machine itself
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            mcp_server=False,
            max_file_size=MAXIMUM_UPLOAD,
            footer_links=[],
            theme=gr.themes.Default(font=fonts[0], font_mono=fonts[1]),
        )
    except OSError as error:
        where = f"port {port}" if port is not None else "any port from 7860 to 7959"
        raise UserError(
            f"the page cannot be served at {host}, {where}: the port is in use or the address is "
            "not one of this machine; give another --port, or leave it out to take a free one"
        ) from error
    return page


def _column(gr: Any, predictor: Predictor, number: int) -> list[Any]:
    """Make the column of a model; returns note, picture and table."""
    weights = title_of(predictor.checkpoint) if predictor.checkpoint else "random weights"
    with gr.Column():
        gr.Markdown(f"### {predictor.name}\n`{weights}`, {predictor.task}")
        note = gr.Markdown(elem_id=f"note-{number}")
        picture = gr.Image(
            show_label=False,  # label and buttons would cover what the picture says at its top
            buttons=[],
            interactive=False,
            format="png",
            elem_id=f"picture-{number}",
        )
        table = gr.Dataframe(
            headers=list(COLUMNS[predictor.task]),
            interactive=False,
            max_height=320,
            wrap=True,
            elem_id=f"table-{number}",
        )
    return [note, picture, table]


def _present(predictor: Predictor, prediction: Prediction, seconds: float) -> list[Any]:
    """Return what a column shows: note, picture and table."""
    rows = prediction.rows()
    size = f"{prediction.width}x{prediction.height} pixels"
    more = f", the first {MAXIMUM_ROWS} in the table" if len(rows) > MAXIMUM_ROWS else ""
    note = (
        f"**{html.escape(Path(prediction.image).name)}**, {size}: {len(rows)} "
        f"{UNITS[prediction.task]} in {1000 * seconds:.0f} ms on {predictor.device}{more}"
    )
    return [note, prediction.draw(), rows[:MAXIMUM_ROWS]]


def _time(predictor: Predictor, path: str) -> tuple[Prediction, float]:
    """Predict for one image, with all scores; returns the prediction and the seconds."""
    started = time.perf_counter()
    (prediction,) = predictor(path, score_threshold=0.0, on_error=lambda *_: None)
    seconds = time.perf_counter() - started
    # the uploaded file is deleted after a while
    return replace(prediction, content=Path(path).read_bytes()), seconds


def _sentence(error: UserError, path: str) -> str:
    """Return an error for the page, with the file's name in place of where it was uploaded to."""
    text = html.escape(str(error).replace(path, Path(path).name))
    return f'<p role="alert" style="color: #b00020; font-weight: 600">{text}</p>'


def _import_gradio() -> Any:
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise UserError("the web page needs Gradio; run: pip install 'mmvitconv[serve]'") from error
    return gradio
