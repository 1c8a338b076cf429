"""Values of kinds that no format has: one sentence with the file, the field and the value."""

import copy
import json
import re
from xml.etree import ElementTree

import exports
import pytest

from mmvitconv.datasets.formats.fields import FieldError, name_of, number_of, points_of
from mmvitconv.datasets.formats.reading import read_folder
from mmvitconv.errors import UserError

JSONS = {
    "coco": exports.coco,
    "labelme": exports.labelme,
    "label_studio": exports.label_studio,
    "createml": exports.createml,
    "via": exports.via,
    "panoptic": exports.panoptic,
}
XMLS = {"voc": exports.voc, "cvat": exports.cvat}
WRONG = ("x", None, [], {}, True)


def kinds_of_fields(node, path=()):
    """Yield the path of one value of each kind of field."""
    if isinstance(node, dict):
        items = list(node.items())
    else:
        items = list(enumerate(node)) if isinstance(node, list) else []
    for key, value in items:
        yield (*path, key)
        yield from kinds_of_fields(value, (*path, key))


def first_of_each(content):
    found = {}
    for path in kinds_of_fields(content):
        found.setdefault(tuple("#" if isinstance(p, int) or "." in p else p for p in path), path)
    return list(found.values())


def assert_named(root, task):
    """Read a folder, or be told in one sentence that names the field."""
    said = ""
    try:
        read_folder(root, task)
    except UserError as error:
        said = str(error)
    assert "is not complete" not in said
    assert "\n" not in said


@pytest.mark.parametrize("name", JSONS)
def test_no_value_of_a_json_is_passed_on(name, tmp_path):
    JSONS[name](tmp_path)
    task = "detection" if name == "createml" else "instance"
    file = max(tmp_path.rglob("*.json"), key=lambda path: path.stat().st_size)
    content = json.loads(file.read_text(encoding="utf-8"))
    for path in first_of_each(content):
        for wrong in WRONG:
            changed = copy.deepcopy(content)
            node = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = wrong
            file.write_text(json.dumps(changed), encoding="utf-8")
            assert_named(tmp_path, task)


@pytest.mark.parametrize("name", XMLS)
def test_no_value_of_an_xml_is_passed_on(name, tmp_path):
    XMLS[name](tmp_path)
    file = max(tmp_path.rglob("*.xml"), key=lambda path: path.stat().st_size)
    text = file.read_text(encoding="utf-8")
    places = {}
    for node in ElementTree.fromstring(text).iter():
        for key in node.attrib:
            places.setdefault((node.tag, key), rf'(<{node.tag}\b[^>]*?\b{key}=")[^"]*')
        if node.text and node.text.strip():
            places.setdefault(node.tag, rf"(<{node.tag}>)[^<]*")
    for pattern in places.values():
        for wrong in ("x", "", "1,2,3", "nan"):
            file.write_text(re.sub(pattern, rf"\g<1>{wrong}", text, count=1), encoding="utf-8")
            assert_named(tmp_path, "detection")


def set_in(*path):
    def change(content, value):
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "value", "words"),
    [
        ("labelme", set_in("shapes", 0, "points", 1, 0), "left",
         "shapes[0].points[1] must be a number, got 'left'; correct the file"),
        ("labelme", set_in("shapes", 0), None, "shapes[0] must be an object {...}, got nothing"),
        ("label_studio", set_in(0, "annotations", 0, "result", 0, "value", "x"), None,
         "[0].annotations[0].result[0].x must be a number, got nothing"),
        ("createml", set_in(0, "annotations", 0, "coordinates", "width"), {"a": 1},
         "[0].annotations[0].coordinates.width must be a number, got {'a': 1}"),
        ("coco", set_in("annotations", 0, "image_id"), [3], "must be a number or a text, got [3]"),
        ("coco", set_in("categories", 0, "name"), ["cat"], "must be a text, got ['cat']"),
    ],
)  # fmt: skip
def test_file_field_and_value_are_named(name, change, value, words, tmp_path):
    JSONS[name](tmp_path)
    file = max(tmp_path.rglob("*.json"), key=lambda path: path.stat().st_size)
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content, value)
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_folder(tmp_path, "detection")
    assert words in str(caught.value)
    assert file.name in str(caught.value)


def test_names_that_yaml_reads_as_something_else(tmp_path):
    exports.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [cat, no, dog]\n")
    with pytest.raises(UserError, match=r"data.yaml': names\[1\] must be a text, got False"):
        read_folder(tmp_path, "detection")


def test_numbers_that_are_written_as_texts():
    assert number_of(" 2.5 ", "x") == 2.5
    assert points_of([["1", 2]], "x") == [(1.0, 2.0)]
    assert name_of(7, "x") == "7"
    for value in (True, None, [1], "1,5"):
        with pytest.raises(FieldError, match="x must be a number"):
            number_of(value, "x")
