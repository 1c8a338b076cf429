"""The one door for images: formats of photographs only, headers first."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mmvitconv.datasets import image_files
from mmvitconv.datasets.formats.records import DataSet, Record
from mmvitconv.datasets.image_files import decoding, look_at, open_image, read_bands
from mmvitconv.datasets.statistics import measure
from mmvitconv.errors import UserError

PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"  # Pillow would start Ghostscript


def giant(path: Path, kind: str = "PNG") -> Path:
    """A small file of 144 million pixels."""
    Image.new("1", (12_000, 12_000)).save(path, kind)
    return path


def test_a_look_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (9, 5)).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("decoded"))
    assert look_at(tmp_path / "a.png") == ((9, 5), 3, 8, False)


def test_giants_are_named_before_they_are_decoded(tmp_path: Path) -> None:
    path, said = giant(tmp_path / "a.png"), "12000x12000 are more than 100,000,000 pixels"
    with pytest.raises(UserError, match=f"a.png' is too large: {said}"):
        look_at(path)
    with (
        pytest.raises(UserError, match=f"the mask '.*a.png' is too large: {said}"),
        decoding(path, "mask"),
    ):
        pytest.fail("opened")
    with pytest.raises(UserError, match=f"the image is too large: {said}"):
        read_bands(path.read_bytes())


def test_every_page_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Image.new("L", (8, 8))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", (90, 80))])
    monkeypatch.setattr(image_files, "MAX_PIXELS", 7000)
    with pytest.raises(UserError, match="90x80 are more than 7,000 pixels"):
        read_bands((tmp_path / "a.tif").read_bytes())


def test_programs_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PROGRAM)
    with pytest.raises(OSError, match="cannot identify"):
        open_image(io.BytesIO(PROGRAM))
    with (
        pytest.raises(UserError, match=r"a.png' cannot be decoded: it is no image"),
        decoding(tmp_path / "a.png"),
    ):
        pytest.fail("opened")


def test_what_cannot_be_read_is_left_out_of_statistics(tmp_path: Path) -> None:
    records = []
    for number in range(4):
        file = tmp_path / f"{number}.png"
        Image.fromarray(np.full((8, 8), 300 * number, np.uint16)).save(file)
        records.append(Record(file.name, label="a", size=(8, 8)))
    giant(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:-30])
    data = DataSet(str(tmp_path), "classification", "", ("a",), {"train": records})
    found = measure(data)
    assert (found.bits, found.low, found.high) == (16, 0, 900)
