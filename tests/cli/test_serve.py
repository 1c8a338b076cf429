import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from apis.tiny import CONFIGS, save_checkpoint

from mmvitconv.apis import Predictor
from mmvitconv.apis.page import MAXIMUM_WAITING, OwnHosts, build_page, own_names, serve
from mmvitconv.cli import run
from mmvitconv.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--no-first-run"),
)
WAIT = 60_000  # milliseconds, on a busy machine


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> list[Predictor]:
    """A detector and a segmentor with weights of their own."""
    folder = tmp_path_factory.mktemp("checkpoints")
    options = {"detection": {"model.test_cfg.rcnn.max_per_img": 10}}
    return [
        Predictor(CONFIGS[task], save_checkpoint(task, folder), "cpu", options.get(task))
        for task in ("detection", "segmentation")
    ]


@pytest.fixture
def address(predictors: list[Predictor]) -> Iterator[str]:
    page = serve(predictors)
    yield page.local_url
    page.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=program, args=list(SWITCHES))
        yield window
        window.close()


def upload(page: Any, file: Path) -> None:
    page.locator("#upload input[type=file]").set_input_files(file)


def wait_for(page: Any, selector: str, text: str) -> None:
    page.locator(selector).filter(has_text=re.compile(text)).wait_for(timeout=WAIT)


def picture(page: Any, number: int) -> str:
    return page.locator(f"#picture-{number} img").get_attribute("src")


@pytest.mark.browser
def test_two_checkpoints_in_a_browser(
    address: str, browser: Any, nuclei_root: Path, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1300, "height": 1100})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address, timeout=WAIT)
    for name in ("maskrcnn_fcvit_tiny_nuclei", "upernet_fcvit_tiny_nuclei"):
        page.get_by_role("heading", name=name).wait_for(timeout=WAIT)
    assert page.locator("#picture-0 img").count() == 0
    first, second = sorted((nuclei_root / "val").glob("*.png"))[:2]

    upload(page, first)
    wait_for(page, "#note-0", rf"{first.name}.*192x192 pixels: 10 objects in \d+ ms on cpu")
    wait_for(page, "#note-1", rf"{first.name}.*2 classes in \d+ ms")
    before = [picture(page, number) for number in (0, 1)]
    assert before[0] != before[1]
    wait_for(page, "#table-0", r"nucleus\s+0\.\d+")
    wait_for(page, "#table-1", r"background\s+\d+")

    threshold = page.locator("#threshold input[type=number]")
    threshold.fill("1")
    threshold.press("Enter")
    wait_for(page, "#note-0", ": 0 objects")
    assert picture(page, 0) != before[0]
    threshold.fill("0")
    threshold.press("Enter")
    wait_for(page, "#note-0", ": 10 objects")

    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    upload(page, broken)
    wait_for(page, "#message", r"broken\.png: the file cannot be decoded as an image")
    assert page.locator("#picture-0 img").count() == 0
    notes = tmp_path / "notes <b>.txt"
    notes.write_text("a text")
    upload(page, notes)
    wait_for(page, "#message", "notes.*the file cannot be decoded as an image")

    upload(page, second)
    wait_for(page, "#note-1", f"{second.name}.*2 classes")
    assert page.locator("#message").inner_text().strip() == ""
    after = [picture(page, number) for number in (0, 1)]
    assert not set(before) & set(after)
    inside = (address, "blob:", "data:")
    assert [url for url in requests if not url.startswith(inside)] == []


def test_one_model_makes_one_column(predictors: list[Predictor]) -> None:
    for count in (1, 2):
        page = build_page(predictors[:count])
        names = {getattr(block, "elem_id", None) for block in page.blocks.values()}
        assert {f"picture-{number}" for number in range(count)} <= names
        assert f"picture-{count}" not in names
        assert page.analytics_enabled is False


HOSTS = [
    ({"host": "127.0.0.1:7860"}, 200),
    ({"host": "LOCALHOST:1"}, 200),
    ({"host": "[::1]:7860"}, 200),
    ({"host": "models.example"}, 200),
    ({"host": "models.example", "origin": "https://models.example"}, 200),
    ({"host": "evil.example"}, 403),
    ({"host": "127.0.0.1.evil.example"}, 403),
    ({"host": "evil.example@127.0.0.1x"}, 403),
    ({"host": ""}, 403),
    ({"host": "[::1"}, 403),
    ({"host": "127.0.0.1", "origin": "http://evil.example"}, 403),
    ({"host": "127.0.0.1", "origin": "null"}, 403),
    ({"host": "127.0.0.1", "origin": ""}, 403),
]


@pytest.mark.parametrize(("headers", "status"), HOSTS)
def test_foreign_hosts_and_pages_are_refused(headers: dict[str, str], status: int) -> None:
    from starlette.responses import PlainTextResponse
    from starlette.testclient import TestClient

    app = OwnHosts(PlainTextResponse("the page"), own_names("127.0.0.1", ["models.example"]))
    answer = TestClient(app, raise_server_exceptions=True).get("/", headers=headers)
    assert answer.status_code == status
    assert (answer.text == "the page") == (status == 200)


def test_own_names() -> None:
    assert socket.gethostname() in own_names("0.0.0.0")
    assert "192.168.0.7" in own_names("192.168.0.7")
    for name in ("http://a", "a:80", "a/b", " a", "*"):
        with pytest.raises(UserError, match="--allow-host takes a host name"):
            own_names("127.0.0.1", [name])


def ask(address: str, number: int, *values: Any) -> dict[str, Any]:
    """Do what the page's script does; return the last message of the queue."""
    session = f"session{number}"
    body = {"data": values, "fn_index": 0, "session_hash": session}
    joined = httpx.post(f"{address}gradio_api/queue/join", json=body, timeout=60)
    joined.raise_for_status()
    url = f"{address}gradio_api/queue/data?session_hash={session}"
    with httpx.stream("GET", url, timeout=60) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line.removeprefix("data:"))
                if message["msg"] in ("process_completed", "unexpected_error"):
                    return message
    raise AssertionError("no answer")


# what no page sends: the answer of the queue, or the status
MALFORMED = (
    {"data": [1]},
    {"data": [1, 2, 3, 4, 5]},
    {"data": [{"path": 3}, 0.5]},
    {"data": ["\0", {"a": []}]},
    {"data": [{"path": "x", "meta": {"_type": 3}}, None]},
    {"data": [], "fn_index": 99},
    {"data": [], "fn_index": -1},
    {"data": [None, None], "trigger_id": 10**9, "event_data": {"x": 1}},
    {"data": [None, 0.5], "session_hash": ""},
)
GARBAGE = (b"", b"{", b"[" * 5000, b"\xff\xfe", b"3", b'{"data": null, "fn_index": null}')


def send_malformed(address: str) -> None:
    for number, body in enumerate(MALFORMED):
        session = f"malformed{number}"
        body = {"fn_index": 0, "session_hash": session, **body}
        joined = httpx.post(f"{address}gradio_api/queue/join", json=body, timeout=60)
        if joined.status_code == 200 and body["session_hash"]:
            url = f"{address}gradio_api/queue/data?session_hash={session}"
            answer = httpx.get(url, timeout=60).text
            assert '"success":false' in answer or "unexpected_error" in answer, body
        else:
            assert joined.status_code in (200, 400, 422), body
    for content in GARBAGE:
        for place in ("queue/join", "upload"):
            for kind in ("application/json", "multipart/form-data; boundary=x"):
                head = {"content-type": kind}
                answer = httpx.post(f"{address}gradio_api/{place}", content=content, headers=head)
                assert answer.status_code in (200, 400, 422), (place, kind, content)
    assert httpx.get(f"{address}gradio_api/queue/data?session_hash=nobody").status_code in (
        200,
        404,
    )
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as half:
        half.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"
        )


def test_a_bad_request_never_blocks_the_next(
    predictors: list[Predictor], nuclei_root: Path, capfd: pytest.CaptureFixture
) -> None:
    page = serve(predictors[:1])
    address = page.local_url
    try:
        assert httpx.get(address, headers={"host": "evil.example"}).status_code == 403
        image = next((nuclei_root / "val").glob("*.png"))
        uploaded = httpx.post(
            f"{address}gradio_api/upload", files={"files": (image.name, image.read_bytes())}
        ).json()[0]

        def file(path: str | Path) -> dict[str, Any]:
            return {"path": str(path), "meta": {"_type": "gradio.FileData"}}

        bad = [Path(uploaded).parent, "/etc", "/etc/passwd", "http://127.0.0.1:1/a.png", uploaded]
        requests = [*((file(path), 0.5) for path in bad[:-1]), (None, 0.5), (file(uploaded), "x")]
        for number, values in enumerate(requests):
            answer = ask(address, number, *values)
            assert not answer["success"] or "is no file" in str(answer["output"])
        send_malformed(address)
        answer = ask(address, 100, file(uploaded), 0.0)
        assert answer["success"], answer
        assert "10 objects" in answer["output"]["data"][1]
        assert page._queue.max_size == MAXIMUM_WAITING
    finally:
        page.close()
    _, error = capfd.readouterr()
    assert "Traceback" not in error
    assert "a request was refused: ValueError: An event handler (predict) didn't receive" in error


def test_a_port_in_use_is_named(predictors: list[Predictor]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port}: the port is in use"):
            serve(predictors[:1], port=port)
    with pytest.raises(UserError, match="from 1 to 65535, got 0"):
        serve(predictors, port=0)


@pytest.mark.slow
def test_the_command_says_when_it_is_ready_and_ends_with_ctrl_c() -> None:
    command = [sys.executable, "-m", "mmvitconv", "serve", str(CONFIGS["classification"]), "none"]
    process = subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ready: "):
                break
        assert re.match(r"ready: http://127\.0\.0\.1:\d+", lines[-1]), lines
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
        assert process.returncode == 0
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = str(CONFIGS["classification"])
    assert run("serve", config, str(tmp_path / "missing.pth"), "--device", "cpu") == 1
    assert "does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run("serve", config, "none", config)
    assert stopped.value.code == 2
    assert "got 3 names" in capsys.readouterr().err
