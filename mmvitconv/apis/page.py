"""A web page on this machine: drop an image, see what one or two models say about it."""

from __future__ import annotations

import contextlib
import html
import ipaddress
import re
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from mmvitconv.apis.images import UnreadableImageError, read_content
from mmvitconv.apis.inference import DETECTION_THRESHOLD, Predictor
from mmvitconv.apis.results import Classification, Detection, Prediction, Segmentation
from mmvitconv.errors import UserError, printable
from mmvitconv.weights.addresses import title_of

if TYPE_CHECKING:
    import gradio as gr

MAXIMUM_ROWS = 50  # of a table
KEPT_FOR = 600  # seconds until an uploaded file is deleted
MAXIMUM_UPLOAD = "100mb"
MAXIMUM_WAITING = 16  # requests; further ones are told to come back
MAXIMUM_SESSIONS = 8  # browsers whose last predictions are kept for the slider
EVERY_ADDRESS = ("0.0.0.0", "::")
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
        accept = upload.async_move_resource_to_block_cache

        async def accept_file(path: str) -> Any:
            """Take what was uploaded; Gradio would take a folder in its place, or an address."""
            if not Path(path).is_file():
                raise gr.Error("this is no file; drop an image", print_exception=False)
            return await accept(path)

        upload.async_move_resource_to_block_cache = accept_file
        message = gr.HTML(elem_id="message")
        outputs: list[Any] = [message]
        with gr.Row():
            for number, predictor in enumerate(predictors):
                outputs += _column(gr, predictor, number)
        results = gr.State([], time_to_live=KEPT_FOR)

        def fill(predictions: list[tuple[Prediction, float]], least: float) -> list[Any]:
            """Fill the columns."""
            found = [
                part
                for predictor, (prediction, seconds) in zip(predictors, predictions, strict=True)
                for part in _present(predictor, prediction.above(least), seconds)
            ]
            return ["", *found]

        def predict(path: str | None, least: float) -> list[Any]:
            """Run the models for a file that was dropped."""
            try:
                if path is None:
                    raise UserError("there is no file; drop an image")
                predictions = [_time(predictor, path) for predictor in predictors]
                return [*fill(predictions, least), predictions, None]
            except UserError as error:
                return [_sentence(error, path or ""), *["", None, None] * len(predictors), [], None]

        def select(predictions: list[tuple[Prediction, float]], least: float) -> list[Any]:
            """Apply another threshold to the same predictions."""
            return fill(predictions, least) if predictions else [gr.skip() for _ in outputs]

        # the emptied field takes the next image
        upload.upload(predict, [upload, slider], [*outputs, results, upload])
        slider.change(select, [results, slider], outputs, trigger_mode="always_last")
    page.queue(api_open=False, max_size=MAXIMUM_WAITING, default_concurrency_limit=1)
    # Gradio prints the traceback of whatever else these raise
    process, tell = page.process_api, page._queue.send_message

    async def process_api(*args: Any, **kwargs: Any) -> Any:
        """Answer a request from the queue."""
        with _one_line(gr.Error):
            return await process(*args, **kwargs)

    def send_message(*args: Any, **kwargs: Any) -> None:
        """Tell a browser, which may have left, how its request gets on."""
        with _one_line(gr.Error):
            tell(*args, **kwargs)

    page.process_api, page._queue.send_message = process_api, send_message
    return page


@contextlib.contextmanager
def _one_line(kind: type[Exception]) -> Iterator[None]:
    """Report an exception in one line and raise Gradio's own kind in its place, which is silent."""
    try:
        yield
    except kind:
        raise
    except Exception as error:
        _report(error)
        raise kind("this request cannot be answered", print_exception=False) from error


def _report(error: BaseException) -> None:
    """Print one line about a request that came to nothing."""
    while inner := getattr(error, "exceptions", None) or error.__cause__:
        error = inner[0] if isinstance(inner, Sequence) else inner  # tasks that stream an answer
    text = printable(f"{type(error).__name__}: {error}", 300)
    print(f"a request was refused: {text}", file=sys.stderr, flush=True)


class OwnHosts:
    """Answers requests to this server's own names only, from its own pages only.

    What goes wrong inside is one line in the server's output.

    A web page elsewhere can reach a server on this machine through a name of its own that it lets
    point here. Starlette's TrustedHostMiddleware does not look at Origin and takes no address with
    colons in it.

    Args:
        app: The ASGI application to guard.
        names: Names and addresses, as they stand in the header Host without the port.
    """

    def __init__(self, app: Any, names: Iterable[str]) -> None:
        self.app = app
        self.names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request with 403, or let the application answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = {b"host": [], b"origin": []}
        for key, value in scope["headers"]:
            given.get(key, []).append(value.decode("latin-1"))
        hosts, origins = given[b"host"], given[b"origin"]
        named = [*(f"//{host}" for host in hosts), *origins]
        if hosts and all(_host_of(address) in self.names for address in named):
            await self._answer(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse  # comes with Gradio
        from starlette.websockets import WebSocketClose

        text = "this host name is not one of this server; mmvitconv serve --allow-host adds one"
        refusal = PlainTextResponse(text, 403) if scope["type"] == "http" else WebSocketClose()
        await refusal(scope, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Let the application answer; an error of its own becomes status 400."""
        begun = []

        async def send_and_note(message: Any) -> None:
            begun.append(message)
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception as error:
            _report(error)
            if scope["type"] != "http":
                return
            if begun:
                with contextlib.suppress(Exception):  # it may have said another length
                    await send({"type": "http.response.body", "body": b""})
                return
            from starlette.responses import PlainTextResponse

            refusal = PlainTextResponse("this request cannot be answered", 400)
            await refusal(scope, receive, send)


def _host_of(address: str) -> str:
    """Return the host of an address, in small letters; empty where there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def own_names(host: str, more: Sequence[str] = ()) -> set[str]:
    """Return the names by which a server may be asked.

    Args:
        host: The address that it listens on.
        more: Further names that the user allows.

    Returns:
        Names and addresses without ports; all of this machine's when it listens on every address.

    Raises:
        UserError: When a further name is none.
    """
    for name in more:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name)
            continue
        if re.fullmatch(r"[\w.-]+", name) is None:
            raise UserError(
                f"--allow-host takes a host name or address without scheme and port, got {name!r}"
            )
    names = {"localhost", "127.0.0.1", "::1", host, *more}
    if host in EVERY_ADDRESS:
        own = socket.gethostname()
        names |= {own, socket.getfqdn()}
        with contextlib.suppress(OSError):
            names |= {str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(own, None)}
    return names


def serve(
    predictors: Sequence[Predictor],
    host: str = "127.0.0.1",
    port: int | None = None,
    allowed_hosts: Sequence[str] = (),
) -> gr.Blocks:
    """Start serving the page in the background.

    Args:
        predictors: The models to compare.
        host: Address to listen on; the default is reached from this machine only.
        port: Where to listen; None takes the first free one from 7860.
        allowed_hosts: Further host names by which it may be asked, as behind a proxy; otherwise
            those of this machine.

    Returns:
        The running page: ``local_url`` is its address, ``block_thread()`` waits for Ctrl-C,
        ``close()`` ends it.

    Raises:
        UserError: When the address, the port or a host name cannot be used.
    """
    gr = _import_gradio()
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"a port is a number from 1 to 65535, got {port}")
    names = own_names(host, allowed_hosts)
    from starlette.middleware import Middleware

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
            state_session_capacity=MAXIMUM_SESSIONS,
            app_kwargs={"middleware": [Middleware(OwnHosts, names=names)]},
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
    try:
        content = read_content(Path(path), predictor.max_pixels)  # it is deleted after a while
        (prediction,) = predictor(content, score_threshold=0.0, on_error=_refuse)
    except UnreadableImageError as error:
        raise UserError(f"{path}: {error}") from error
    return replace(prediction, image=path), time.perf_counter() - started


def _refuse(name: str, reason: str) -> None:
    raise UnreadableImageError(reason)


def _sentence(error: UserError, path: str) -> str:
    """Return an error for the page, with the file's name in place of where it was uploaded to."""
    text = html.escape(
        printable(str(error).replace(path, Path(path).name) if path else str(error), 1000)
    )
    return f'<p role="alert" style="color: #b00020; font-weight: 600">{text}</p>'


def _import_gradio() -> Any:
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise UserError("the web page needs Gradio; run: pip install 'mmvitconv[serve]'") from error
    return gradio
