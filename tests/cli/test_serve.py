import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apis.tiny import CONFIGS, save_checkpoint

from mmvitconv.apis import Predictor
from mmvitconv.apis.page import build_page, serve
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
