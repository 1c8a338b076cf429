"""Every block of code in the documentation runs, or is checked without running."""

from pathlib import Path

import pytest
from code_blocks import (
    Block,
    DocumentationError,
    Page,
    add_demo,
    all_blocks,
    blocks_of,
    make_folder,
)

from mmvitconv.registry import MODELS

pytestmark = pytest.mark.slow

BLOCKS = all_blocks()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, nuclei_root, trees_root, mnist_root):
    """The pages that were begun, by name; the registry is as before afterwards."""
    registered = dict(MODELS.module_dict)
    begun: dict[str, Page] = {}
    yield begun
    for one in begun.values():
        one.close()
    MODELS.module_dict.clear()
    MODELS.module_dict.update(registered)


@pytest.fixture
def page(pages, tmp_path_factory):
    """A function that gives a page by name."""

    def get(name: str) -> Page:
        if name not in pages:
            folder = tmp_path_factory.mktemp("page") / "repository"
            pages[name] = Page(make_folder(folder))
            if any("work_dirs/demo" in block.code for block in BLOCKS if block.page == name):
                add_demo(folder)
        return pages[name]

    return get


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block(block: Block, page, monkeypatch):
    current = page(block.page)
    monkeypatch.chdir(current.folder)
    # Where only some tests are run, what stands before on the page comes first.
    for earlier in BLOCKS:
        if earlier.page == block.page and earlier.line < block.line and earlier not in current.done:
            current.run(earlier)
    current.run(block)


def run(text: str, page, tmp_path: Path, monkeypatch) -> None:
    """Run the blocks of a text."""
    current = page(str(tmp_path))
    monkeypatch.chdir(current.folder)
    for block in blocks_of(text, "docs/x.md"):
        current.run(block)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```python\n1 / 0\n```", "division"),
        ("```python\nbackbone = dict(type='mmvitconv.FCVit')\n```", "FCVit"),
        ("```python\nbackbone = dict(type='mmvitconv.FCViT', depth=3)\n```", "depth"),
        ("```python\nbackbone = dict(type='mmvitconv.FCViT', arch='s13')\n```", "s13"),
        ("```python\n# configs/x/y.py\n_base_ = '../fcvit/fcvit_s13_imagenet.py'\n```", "s13"),
        ("```bash\nfalse\n```", "unknown"),
        ("```bash\nls nothing\n```", "nothing"),
        ("```bash\nmmvitconv trian CONFIG\n```", "trian"),
        ("```bash\nmmvitconv train CONFIG --amd\n```", "--amd"),
        ("```bash\nmmvitconv train configs/fcvit/fcvit_s13_imagenet.py\n```", "s13"),
        (
            "```bash\npython tools/train.py configs/fcvit/fcvit_tiny_mnist.py \\\n"
            "    --cfg-options train_cfg.max_epoch=3\n```",
            "max_epoch",
        ),
        ("```bash\nmmvitconv export fcvit_s99 --out x.onnx\n```", "s99"),
        (
            "```bash\nmmvitconv export configs/fcvit/fcvit_tiny_mnist.py --out x.onnx \\\n"
            "    --cfg-options model.bakcbone=3\n```",
            "bakcbone",
        ),
        ("```bash\nmmvitconv benchmark LightViT:tinny --layouts nhwc\n```", "tinny"),
        ("<!-- run: check -->\n```bash\nmmvitconv erf Nope:x\n```", "Nope:x"),
        ("<!-- run: check -->\n```bash\nmmvitconv erf FCViT:tiny timm:none\n```", "timm:none"),
        ("<!-- run: check -->\n```bash\nmmvitconv attention LightViT:x\n```", "LightViT:x"),
        ("<!-- run: check -->\n```bash\nmmvitconv flops fcvit_s13_imagenet\n```", "s13"),
        ("```bash\nbash tools/dist_train.sh CONFIG eight\n```", "eight"),
        ("```bash\nmake tests\n```", "tests"),
        ("```\noutput\n```", "text"),
        ("<!-- run: never -->\n```bash\nls\n```", "never"),
        ("<!-- run: check -->\ntext\n", "no block"),
        ("```python\n", "does not end"),
    ],
)
def test_mistakes_are_found(text: str, words: str, page, tmp_path, monkeypatch):
    with pytest.raises(Exception, match=words):
        run(text, page, tmp_path, monkeypatch)


def test_blocks_share_what_they_make(page, tmp_path, monkeypatch):
    text = "```python\na = 1\n```\n```bash\ntouch made\n```\n```python\nopen('made'), a\n```"
    run(text, page, tmp_path, monkeypatch)


def test_placeholders_and_heavy_commands_are_not_run(page, tmp_path, monkeypatch):
    text = "```bash\nmmvitconv train CONFIG --amp\nmake test\nmkdir DIR && ls DIR\n```"
    run(text, page, tmp_path, monkeypatch)
    with pytest.raises(DocumentationError, match="exit code"):
        run("<!-- run: full -->\n```bash\nls DIR\n```", page, tmp_path, monkeypatch)
