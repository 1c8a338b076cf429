"""Every format that tools export gives the same objects; splits, masks and class folders."""

import json
import re
import shutil

import exports
import numpy as np
import pytest
from exports import CLASSES, SCENE
from PIL import Image

from mmvitconv.datasets.formats.label_studio import decode_brush
from mmvitconv.datasets.formats.reading import read_folder
from mmvitconv.datasets.formats.records import Record
from mmvitconv.datasets.formats.splitting import divide
from mmvitconv.datasets.formats.tree import Tree, split_of
from mmvitconv.datasets.formats.writing import area_of, plain_masks, write_coco, write_masks
from mmvitconv.errors import UserError


def everything(data):
    """All records by the name of their image, without folders."""
    records = [record for split in data.splits.values() for record in split]
    return {record.image.rpartition("/")[2]: record for record in records}


@pytest.mark.parametrize("name", exports.BOXES)
def test_boxes_of_every_format(name, tmp_path):
    exports.BOXES[name](tmp_path)
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    data = read_folder(tmp_path, "detection")
    found = everything(data)
    if name == "cvat video":  # frames have no other names
        assert found.keys() == {f"frame_{n:06d}.jpg" for n in range(len(SCENE))}
        names = [key.rpartition("/")[2] for key in SCENE]
        found = dict(zip(names, (found[key] for key in sorted(found)), strict=True))
    annotated = {key: value for key, value in SCENE.items() if value or name != "csv"}
    assert found.keys() == {key.rpartition("/")[2] for key in annotated}
    assert set(data.classes) == set(CLASSES)
    for image, objects in annotated.items():
        record = found[image.rpartition("/")[2]]
        assert record.size == (exports.WIDTH, exports.HEIGHT)
        assert [item.name for item in record.objects] == [cls for cls, _ in objects]
        for item, (_, polygon) in zip(record.objects, objects, strict=True):
            # YOLO writes six digits; a mask of labelme includes its last pixels
            np.testing.assert_allclose(item.box, exports.box(polygon), atol=1.01)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == before
    train, val = data.splits["train"], data.splits["val"]
    assert data.divided
    assert len(train) > len(val) > 0
    assert not {record.image for record in train} & {record.image for record in val}


@pytest.mark.parametrize("name", exports.POLYGONS)
def test_masks_of_every_format(name, tmp_path):
    exports.POLYGONS[name](tmp_path)
    found = everything(read_folder(tmp_path, "instance"))
    for image, objects in SCENE.items():
        for item, (_, polygon) in zip(
            found[image.rpartition("/")[2]].objects, objects, strict=True
        ):
            border = 2 * sum(exports.box(polygon)[2:])  # pixels that a drawn outline may add
            assert area_of(item) == pytest.approx(exports.bitmap(polygon).sum(), abs=border)


def test_boxes_without_masks_are_named(tmp_path):
    exports.voc(tmp_path)
    with pytest.raises(UserError, match="no masks of objects: VOC xml with 7 boxes"):
        read_folder(tmp_path, "instance")


def test_coco_is_written_anew_where_something_was_changed(tmp_path):
    exports.split_coco(tmp_path)
    names = tuple(SCENE)
    data = read_folder(tmp_path, "detection")
    assert not data.divided
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 4, "val": 2}
    assert all(record.reference for record in everything(data).values())
    file = tmp_path / "train/_annotations.coco.json"
    content = json.loads(file.read_text())
    del content["annotations"][0]["iscrowd"], content["annotations"][0]["area"]
    content["annotations"].append(
        {**content["annotations"][0], "bbox": [0] * 4, "segmentation": []}
    )
    file.write_text(json.dumps(content))
    data = read_folder(tmp_path, "detection")
    assert not any(record.reference for record in data.splits["train"])
    write_coco(tmp_path / "out.json", data.splits["train"], data.classes)
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in written["images"]] == [f"train/{n}" for n in names[:4]]
    assert all(entry["iscrowd"] == 0 and entry["area"] > 0 for entry in written["annotations"])


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda entry, _: entry.update(iscrowd=1), "of which all are to be ignored"),
        (lambda entry, sides: entry.update(
            bbox=[v / sides[i % 2] for i, v in enumerate(entry["bbox"])]), "shares of the image"),
    ],
)  # fmt: skip
def test_slips_that_are_certain_are_mended_and_said(change, note, tmp_path):
    exports.coco(tmp_path)
    file = tmp_path / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        change(entry, (exports.WIDTH, exports.HEIGHT))
    file.write_text(json.dumps(content))
    data = read_folder(tmp_path, "detection")
    assert any(note in text for text in data.notes)
    for image, objects in SCENE.items():
        for item, (_, polygon) in zip(
            everything(data)[image.rpartition("/")[2]].objects, objects, strict=True
        ):
            assert not item.is_crowd
            np.testing.assert_allclose(item.box, exports.box(polygon), atol=1e-9)


def test_panoptic_masks_have_what_is_no_object(tmp_path):
    exports.panoptic(tmp_path)
    assert "sky" not in read_folder(tmp_path, "instance").classes
    data = read_folder(tmp_path, "semantic")
    assert data.classes == ("background", *CLASSES, "sky")
    write_masks(tmp_path / "out", data)
    for name in SCENE:
        values = np.asarray(Image.open(tmp_path / f"out/val/{name}.png"))
        expected = exports.class_map(name)
        np.testing.assert_array_equal(values, np.where(expected == 0, len(CLASSES) + 1, expected))


def test_videos_need_their_frames(tmp_path):
    exports.cvat_video(tmp_path)
    assert any("neighbouring frames" in note for note in read_folder(tmp_path, "detection").notes)
    for number, file in enumerate(sorted((tmp_path / "images").iterdir())):
        file.rename(file.with_name(f"{number}.jpg"))
    with pytest.raises(UserError, match="there is no image called frame_000000: export the task"):
        read_folder(tmp_path, "detection")


def test_difficult_objects_count_where_a_class_has_no_other(tmp_path):
    exports.voc(tmp_path)
    for name in ("b/Ünter", "d"):
        file = tmp_path / f"Annotations/{name}.xml"
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace("<difficult>0", "<difficult>1"), encoding="utf-8")
    found = everything(read_folder(tmp_path, "detection"))
    # a cat and a dog are elsewhere too
    assert [item.is_crowd for item in found["Ünter.jpg"].objects] == [True, True]
    file = tmp_path / "Annotations/e.xml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("<difficult>0", "<difficult>1"), encoding="utf-8")
    data = read_folder(tmp_path, "detection")
    found = everything(data)
    assert any("4 objects of classes of which all are to be ignored" in n for n in data.notes)
    assert [item.is_crowd for item in found["Ünter.jpg"].objects] == [False, True]
    assert not any(item.is_crowd for name in "de" for item in found[f"{name}.jpg"].objects)


@pytest.mark.parametrize("write", [exports.coco, exports.voc, exports.labelme, exports.cvat])
def test_annotations_of_images_as_they_are_stored(write, tmp_path):
    write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = sorted(tmp_path.rglob("*.jpg"))
    for file in files:
        Image.open(file).save(file, exif=exif)
    data = read_folder(tmp_path, "detection")
    assert data.is_stored
    assert any("6 images have an EXIF orientation" in note for note in data.notes)
    sizes = {record.size for record in everything(data).values()}
    assert sizes == {(exports.WIDTH, exports.HEIGHT)}
    for file in files:  # as the annotations are, once they are turned
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    data = read_folder(tmp_path, "detection")
    assert not data.is_stored
    assert {record.size for record in everything(data).values()} == sizes


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("numbers", ("background", "class 1", "class 2", "class 3")),
        ("palette", ("background", "class 1", "class 2", "class 3")),
        ("binary", ("background", "object")),
        ("colours", ("background", "colour 008000", "colour 800000", "colour 808000")),
        ("names", ("background", *CLASSES)),
    ],
)
def test_masks_of_every_kind(kind, classes, tmp_path):
    exports.masks(tmp_path, "colours" if kind == "names" else kind)
    if kind == "names":  # as CVAT writes it
        lines = ["# label:color_rgb:parts:actions"]
        lines += [
            f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(classes, exports.COLOURS, strict=True)
        ]
        (tmp_path / "labelmap.txt").write_text("\n".join(lines), encoding="utf-8")
    data = read_folder(tmp_path, "semantic")
    assert data.classes == classes
    assert (plain_masks(data) is not None) == (kind in ("numbers", "palette"))
    write_masks(tmp_path / "out", data)
    order = {"colour 800000": 1, "colour 008000": 2, "colour 808000": 3}
    for name in SCENE:
        wanted = exports.class_map(name)
        if kind == "binary":
            wanted = np.minimum(wanted, 1)
        elif kind == "colours":
            wanted = np.uint8([0, *(classes.index(c) for c in order)])[wanted]
        written = np.asarray(Image.open(tmp_path / "out/images" / f"{name}.png"))
        np.testing.assert_array_equal(written, wanted)


@pytest.mark.parametrize("size", [(exports.HEIGHT, exports.WIDTH), (20, 10)])
def test_masks_of_another_size_than_their_images_are_named(size, tmp_path):
    exports.masks(tmp_path, "numbers")
    masks = sorted((tmp_path).rglob("*.png"))
    with Image.open(masks[1]) as mask:
        mask.resize(size).save(masks[1])
    words = f"/{masks[1].name}' has {size[0]} x {size[1]} pixels, but its image .*1 of "
    with pytest.raises(UserError, match=words):
        read_folder(tmp_path, "semantic")


@pytest.mark.parametrize(
    ("image", "mask", "others"),
    [
        ("images/{}.jpg", "labels/{}.png", []),
        ("{}.jpg", "{}_mask.png", []),
        ("train/{}.png", "train/{}-label.png", []),
        ("images/{}.png", "masks/mask_{}.png", []),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", ["SegmentationObject/{}.png"]),
        (
            "leftImg8bit/train/x/x_{}_leftImg8bit.png",
            "gtFine/train/x/x_{}_gtFine_labelIds.png",
            ["gtFine/train/x/x_{}_gtFine_color.png", "gtFine/train/x/x_{}_gtFine_instanceIds.png"],
        ),
    ],
)
def test_masks_are_found_beside_their_images(image, mask, others, tmp_path):
    for number in range(3):
        exports.write_images(tmp_path, [image.format(number)])
        for place in (mask, *others):
            file = tmp_path / place.format(number)
            file.parent.mkdir(parents=True, exist_ok=True)
            values = exports.class_map("a one.jpg")
            Image.fromarray(values if place == mask else values + 40).save(file)
    found = everything(read_folder(tmp_path, "semantic")).values()
    expected = {image.format(number): mask.format(number) for number in range(3)}
    assert {record.image: record.mask for record in found} == expected


def test_polygons_become_masks(tmp_path):
    exports.coco(tmp_path)
    data = read_folder(tmp_path, "semantic")
    assert data.classes == ("background", *CLASSES)
    write_masks(tmp_path / "out", data)
    written = np.asarray(Image.open(tmp_path / "out/images/d.jpg.png"))
    np.testing.assert_array_equal(written, exports.class_map("d.jpg"))


def test_masks_of_single_objects(tmp_path):
    exports.write_images(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/b").mkdir()
    for name, objects in SCENE.items():
        values = np.zeros((exports.HEIGHT, exports.WIDTH), np.uint16)
        for number, (_, polygon) in enumerate(objects, 300):
            values[exports.bitmap(polygon) > 0] = number
        Image.fromarray(values).save((tmp_path / "masks" / name).with_suffix(".png"))
    found = everything(read_folder(tmp_path, "instance"))
    counts = {name.rpartition("/")[2]: len(objects) for name, objects in SCENE.items()}
    assert {name: len(record.objects) for name, record in found.items()} == counts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values * 80 + values % 2 * np.arange(len(values))[:, None] % 3,
         r"values stand in groups \(80 to 82"),
        (lambda values: np.where(values == 3, 254, values), "254 is read as a class: where it is"),
    ],
)  # fmt: skip
def test_values_that_are_no_plain_numbers_are_named(change, message, tmp_path):
    exports.masks(tmp_path, "numbers")
    for file in (tmp_path / "masks").rglob("*.png"):
        with Image.open(file) as mask:
            Image.fromarray(change(np.asarray(mask)).astype(np.uint8)).save(file)
    try:
        said = read_folder(tmp_path, "semantic").format
    except UserError as error:
        said = str(error)
    assert re.search(message, said)


def test_jpeg_masks_are_cut_at_the_middle(tmp_path):
    exports.masks(tmp_path, "binary")
    for file in (tmp_path).rglob("*.png"):
        Image.open(file).save(file.with_suffix(".jpg"), quality=60)
        file.unlink()
    data = read_folder(tmp_path, "semantic")
    write_masks(tmp_path / "out", data)
    for name in SCENE:
        written = np.asarray(Image.open(tmp_path / "out/images" / f"{name}.png"))
        wanted = exports.class_map(name) > 0
        assert set(np.unique(written)) <= {0, 1}
        assert (written != wanted).mean() < 0.02  # of the pixels, all at borders


@pytest.mark.parametrize(
    "layout", ["{split}/{cls}/{name}", "{cls}/{name}", "data/{cls}/sub/{name}"]
)
def test_class_folders(layout, tmp_path):
    names = [
        layout.format(split=split, cls=cls, name=f"{split} {number}.png")
        for split in ("train", "val")
        for cls in ("10", "9", "größe")
        for number in range(4)
    ]
    exports.write_images(tmp_path, [*names, "preview.jpg"])
    data = read_folder(tmp_path, "classification")
    assert data.notes == ["1 images are in no folder of a class"]
    assert data.classes == ("9", "10", "größe")
    assert bool(data.divided) == ("{split}" not in layout)
    for records in data.splits.values():
        assert {record.label for record in records} == set(data.classes)


def test_one_hot_table(tmp_path):
    exports.write_images(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    (tmp_path / "_classes.csv").write_text(
        "filename, cat, dog\na.jpg, 1, 0\nb.jpg, 0, 1\nc.jpg, 1, 0\nd.jpg, 0, 1\n"
    )
    data = read_folder(tmp_path, "classification")
    labels = {image: record.label for image, record in everything(data).items()}
    assert labels == {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": "cat", "d.jpg": "dog"}


@pytest.mark.parametrize(
    ("path", "is_annotation", "split"),
    [
        ("train2017/a.jpg", False, "train"),
        ("images/valid/a.jpg", False, "val"),
        ("val_images/deep/a.jpg", False, "val"),
        ("flight over the test field/a.jpg", False, ""),
        ("train.jpg", False, ""),
        ("annotations/instances_val2017.json", True, "val"),
        ("testing/_annotations.coco.json", True, "test"),
        ("all.json", True, ""),
    ],
)
def test_words_for_splits(path, is_annotation, split):
    assert split_of(path, is_annotation) == split


def test_an_image_is_found_whatever_it_is_called(tmp_path):
    for name in ("train/a.jpg", "val/a.jpg", "val/e\u0301 x.png", "masks/b.png", "b.jpg"):
        exports.write_images(tmp_path, [name])
    tree = Tree(tmp_path)
    for reference, near, found in (
        ("a.jpg", "annotations/instances_val.json", "val/a.jpg"),
        ("C:\\data\\train\\a.jpg", "all.json", "train/a.jpg"),
        ("/data/local-files/?d=val/%C3%A9%20x.png", "all.json", "val/e\u0301 x.png"),
        ("b.JPG", "masks/b.json", "b.jpg"),
        ("none.jpg", "all.json", None),
    ):
        assert tree.find_image(reference, near) == found


def test_division_keeps_classes_and_copies_together():
    records = [Record(f"{n}.rf.{c}.jpg", label="rare" if n < 2 else "common")
               for n in range(20) for c in range(3)]  # fmt: skip
    train, val = divide(records, lambda record: {record.label}, seed=1)
    assert len(train) + len(val) == 60
    assert {record.label for record in train} == {record.label for record in val}
    stems = [{record.image.partition(".rf.")[0] for record in part} for part in (train, val)]
    assert not stems[0] & stems[1]
    assert divide(records, lambda record: {record.label}, seed=1) == (train, val)


def test_roboflows_test_split_is_kept_and_val_divided_off(tmp_path):
    for split in ("train", "test"):
        exports.write_images(tmp_path / split)
        exports.as_coco(tmp_path / split, file="_annotations.coco.json")
    data = read_folder(tmp_path, "detection")
    assert len(data.splits["test"]) == 6
    assert len(data.splits["train"]) + len(data.splits["val"]) == 6
    assert data.divided


def test_a_brush_of_label_studio():
    # 8 numbers of 8 bits; sizes 3, 4, 8, 16; 4 zeros repeated, then 4 of their own
    bits = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += (
        f"1{0:02b}{3:03b}{0:08b}" + f"0{0:02b}{3:03b}" + "".join(f"{v:08b}" for v in (1, 2, 3, 255))
    )
    code = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert decode_brush(code).tolist() == [0, 0, 0, 0, 1, 2, 3, 255]


@pytest.mark.parametrize(
    ("write", "task", "message"),
    [
        (lambda root: None, "detection", "holds no image"),
        (exports.write_images, "detection", "holds no annotations of objects: none of the 6 files"),
        (lambda root: exports.write_images(root / "cats"), "classification", "folder a class"),
        (exports.yolo, "semantic", "neither masks .* nor polygons"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(write, task, message, tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_folder(tmp_path, task)
    assert "\n" not in str(caught.value)


def cut_xml(root):
    exports.cvat(root)
    file = root / "annotations.xml"
    file.write_text(file.read_text(encoding="utf-8").replace("points=", "dots="), encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8").replace('left="', 'l="'), encoding="utf-8")


def cut_task(root):
    exports.label_studio(root)
    (file,) = root.glob("*.json")
    tasks = json.loads(file.read_text(encoding="utf-8"))
    tasks[0]["annotations"][0]["result"][0]["value"].pop("height")
    file.write_text(json.dumps(tasks))


def cut_points(root):
    exports.labelme(root)
    content = json.loads((root / "d.json").read_text())
    content["shapes"][0]["points"][1] = [3]
    (root / "d.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("write", "file"),
    [(cut_xml, "annotations.xml"), (cut_task, "project-1-at-2026.json"), (cut_points, "d.json")],
)
def test_files_that_are_not_complete_are_named(write, file, tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=f"{file}': .* must be .*, got .*export it again"):
        read_folder(tmp_path, "detection")


def test_a_json_that_is_none_is_said(tmp_path):
    exports.labelme(tmp_path)
    (tmp_path / "d.json").write_text('{"shapes": [')
    data = read_folder(tmp_path, "detection")
    assert any("d.json" in note and "not valid json" in note for note in data.notes)


def test_yolo_in_pixels_is_named(tmp_path):
    exports.yolo(tmp_path)
    (tmp_path / "labels/d.txt").write_text("2 37 30 65 50\n")
    with pytest.raises(UserError, match=r"labels/d.txt.*shares of the image"):
        read_folder(tmp_path, "detection")


@pytest.mark.parametrize(("line", "is_named"), [("0 .7 .7 .9 .9", True), ("0 .5 .5 1 1", False)])
def test_yolo_boxes_that_leave_their_images_are_named(line, is_named, tmp_path):
    exports.yolo(tmp_path)
    (tmp_path / "labels/d.txt").write_text(f"{line}\n" * 40)
    if is_named:  # a corner and its opposite one, as YOLO does not write them
        with pytest.raises(UserError, match=r"labels/d.txt.* 40 of \d+ boxes reach outside"):
            read_folder(tmp_path, "detection")
    else:
        assert len(everything(read_folder(tmp_path, "detection"))["d.jpg"].objects) == 40


@pytest.mark.parametrize("step", [2, 3])
def test_keypoints_behind_boxes_are_no_polygons(step, tmp_path):
    exports.yolo(tmp_path)
    points = [f"{0.4 + 0.01 * n} .5 1"[: None if step == 3 else -2] for n in range(3)]
    for file in (tmp_path / "labels").rglob("*.txt"):
        file.write_text(f"0 .5 .5 .4 .4 {' '.join(points)}\n" * 8)
    data = read_folder(tmp_path, "detection")
    assert any("lines are a box and keypoints: the keypoints are left" in n for n in data.notes)
    width = everything(data)["d.jpg"].objects[0].box[2]
    assert width == pytest.approx(0.4 * exports.WIDTH)


def test_yaml_says_the_splits(tmp_path):
    exports.yolo(tmp_path)
    shutil.move(tmp_path / "images/d.jpg", tmp_path / "other.jpg")
    shutil.move(tmp_path / "labels/d.txt", tmp_path / "other.txt")
    names = ", ".join(CLASSES)
    (tmp_path / "data.yaml").write_text(
        f"train: ../images\nval: [some.txt]\nnames: [{names}]\n", encoding="utf-8"
    )
    (tmp_path / "some.txt").write_text("./other.jpg\n")
    data = read_folder(tmp_path, "detection")
    assert [record.image for record in data.splits["val"]] == ["other.jpg"]
    assert not data.divided


def change_coco(root, change):
    """Write the scene as COCO json, changed."""
    exports.coco(root)
    file = root / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def give_first_id(content):
    content["images"][1]["id"] = content["images"][0]["id"]


def count_from_zero(content):
    for entry in content["annotations"]:
        entry["category_id"] -= 1


def halve_sizes(content):
    for image in content["images"]:
        image["width"], image["height"] = image["width"] // 2, image["height"] // 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (give_first_id, "1 image ids occur twice, the first is"),
        (count_from_zero, "are off by one from its categories"),
        (halve_sizes, r"pixels of .*, but the file has .*6 of 6 images"),
    ],
)
def test_slips_of_a_whole_json_are_named(change, message, tmp_path):
    change_coco(tmp_path, change)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, "detection")


def test_objects_that_are_written_twice_count_once(tmp_path):
    change_coco(tmp_path, lambda content: content["annotations"].extend(
        [{**entry, "id": entry["id"] + 1000} for entry in content["annotations"]]
    ))  # fmt: skip
    data = read_folder(tmp_path, "detection")
    number = sum(map(len, SCENE.values()))
    assert sum(len(record.objects) for record in everything(data).values()) == number
    assert f"{number} annotations are written twice: the second is left out" in data.notes


@pytest.mark.parametrize("word", ["nan", "inf"])
@pytest.mark.parametrize("name", ["csv", "voc", "labelme"])
def test_coordinates_that_are_no_numbers_are_left_out(name, word, tmp_path):
    if name == "csv":
        exports.write_images(tmp_path)
        (tmp_path / "boxes.csv").write_text(
            "filename,class,xmin,ymin,xmax,ymax\n"
            f"d.jpg,cat,{word},1,{word},9\nd.jpg,cat,1,1,9,9\na one.jpg,cat,1,1,9,9\n"
        )
    elif name == "voc":
        exports.voc(tmp_path)
        file = tmp_path / "Annotations/d.xml"
        text = file.read_text(encoding="utf-8")
        start, end = text.index("<xmax>"), text.index("</xmax>")
        file.write_text(f"{text[:start]}<xmax>{word}{text[end:]}", encoding="utf-8")
    else:
        exports.labelme(tmp_path)
        content = json.loads((tmp_path / "d.json").read_text())
        content["shapes"][0]["points"][0][0] = float(word)
        (tmp_path / "d.json").write_text(json.dumps(content))
    data = read_folder(tmp_path, "detection")
    (note,) = data.notes  # a box from infinity to infinity has no area either
    assert note.startswith(
        (
            "1 objects have coordinates that are NaN",
            "1 annotations have no box",
            "1 objects have no na",
        )
    )
    boxes = [item.box for record in everything(data).values() for item in record.objects]
    assert np.isfinite(boxes).all()


def test_what_is_wrong_with_every_object_is_said(tmp_path):
    def break_masks(content):
        for entry in content["annotations"]:
            entry.pop("bbox")
            size = [exports.HEIGHT, exports.WIDTH]
            entry["segmentation"] = {"size": size, "counts": f"\u00e9{entry['id']}"}

    change_coco(tmp_path, break_masks)
    with pytest.raises(
        UserError, match=r"found, but 7 masks are neither .*; 7 annotations have no box"
    ):
        read_folder(tmp_path, "instance")


def slip(name, root):
    """Write the scene with a slip of an exporter, or of a hand."""
    if name == "typo":
        names = [
            f"{s}/{c}/{n}.jpg" for s in ("train", "vall") for c in ("cat", "dog") for n in "ab"
        ]
        exports.write_images(root, names)
    elif name == "nc":
        exports.yolo(root)
        (root / "data.yaml").write_text("nc: 5\nnames: [a, b, c]\n")
    elif name == "names":
        exports.yolo(root)
        (root / "data.yaml").write_text("names: a, b, c\n")
    elif name == "corner":
        exports.yolo(root)
        for file in (root / "labels").rglob("*.txt"):
            file.write_text("")
        (root / "labels/d.txt").write_text("0 .02 .5 .2 .2\n" * 6 + "0 .5 .5 .2 .2\n" * 40)
    elif name == "comma":
        exports.write_images(root)
        (root / "d.txt").write_text("0, .5, .5, .2, .2\n")
    elif name == "sizes":
        exports.voc(root)
        for file in (root / "Annotations").rglob("*.xml"):
            text = re.sub("(?<=<[xy]max>)[^<]+", "9", file.read_text(encoding="utf-8"))
            file.write_text(text, encoding="utf-8")
    elif name == "label":
        exports.cvat(root)
        file = root / "annotations.xml"
        text = re.sub(' label="[^"]*"', "", file.read_text(encoding="utf-8"))
        file.write_text(text, encoding="utf-8")
    elif name == "table":
        exports.write_images(root)
        (root / "a.csv").write_text("filename,kind,xmin,ymin,xmax,ymax\nd.jpg,cat,1,1,9,9\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("typo", "vall' holds the folders cat, dog"),
        ("nc", "data.yaml': nc is 5, but the names are 3: a, b, c"),
        ("names", "data.yaml': names must be a list of names, got 'a, b, c'"),
        ("corner", "6 of .* do they begin at a corner"),
        ("comma", "d.txt' may be YOLO txt, but begins with '0, .5, .5, .2, .2'"),
        ("sizes", "xmax is below xmin, .* all fit as x, y, width, height"),
        ("label", "shapes have no label"),
        ("table", "1 lines of csv name no class .* columns filename, kind, xmin"),
    ],
)
def test_slips_of_every_format_are_named(name, message, tmp_path):
    slip(name, tmp_path)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, "classification" if name == "typo" else "detection")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"][1].update(name=None), r"with the id \d+ has no name"),
        (lambda c: c.update(categories={}), "has no list categories"),
        (lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]],
         "7 annotations have an image_id that is none of the images"),
        (lambda c: [i.update(file_name="") for i in c["images"]], "6 images .* have no file_name"),
        (lambda c: c["annotations"].clear(), "json files have no annotations"),
    ],
)  # fmt: skip
def test_why_a_json_is_not_read_is_said(change, message, tmp_path):
    change_coco(tmp_path, change)
    with pytest.raises(UserError, match=message):
        read_folder(tmp_path, "detection")


def test_a_mark_of_the_byte_order_is_taken(tmp_path):
    exports.coco(tmp_path)
    file = tmp_path / "annotations/instances_default.json"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert len(everything(read_folder(tmp_path, "instance"))) == len(SCENE)


def test_copies_are_named_and_stay_together(tmp_path):
    for split in ("train", "val"):
        exports.write_images(tmp_path / split, [f"{cls}/{n}.jpg" for cls in "xy" for n in range(4)])
    shutil.copy(tmp_path / "train/x/0.jpg", tmp_path / "val/x/other.jpg")
    shutil.copy(tmp_path / "train/x/1.jpg", tmp_path / "train/y/again.jpg")
    notes = read_folder(tmp_path, "classification").notes
    assert [note.partition(",")[0] + note.partition("in two ")[2][:6] for note in notes] == [
        "1 images are the samesplits",
        "1 images are the sameclasse",
    ]
    records = [Record(f"{n}.jpg", label="x") for n in range(10)]
    same = {f"{n}.jpg": f"{n - 1}.jpg" for n in range(1, 10, 2)}
    train, val = divide(records, lambda record: {record.label}, copies=same)
    assert {int(r.image[0]) // 2 for r in val}.isdisjoint(int(r.image[0]) // 2 for r in train)
