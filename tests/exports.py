"""A scene of rectangles and triangles, written as each annotation tool exports it."""

import base64
import csv
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("cat", "größe", "dog")  # in the order in which tools know them
WIDTH, HEIGHT = 80, 60
# By image: class, polygon. Names with spaces, capitals, accents; one image without objects.
SCENE = {
    "a one.jpg": [("cat", [(10, 10), (40, 10), (40, 30), (10, 30)])],
    "b/Ünter.jpg": [
        ("größe", [(20, 20), (50, 20), (35, 50)]),
        ("cat", [(60, 5), (75, 5), (75, 25), (60, 25)]),
    ],
    "c.jpg": [],
    "d.jpg": [("dog", [(5, 5), (70, 5), (70, 55), (5, 55)])],
    "e.jpg": [("dog", [(30, 30), (60, 30), (45, 50)]), ("größe", [(0, 0), (12, 0), (12, 12)])],
    "f.jpg": [("cat", [(15, 15), (45, 15), (45, 45), (15, 45)])],
}


def box(polygon: list[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Left, top, width, height."""
    xs, ys = zip(*polygon, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def flat(polygon: list[tuple[float, float]]) -> list[float]:
    return [float(value) for point in polygon for value in point]


def bitmap(polygon: list[tuple[float, float]]) -> np.ndarray:
    picture = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(picture).polygon(polygon, fill=1)
    return np.asarray(picture)


def write_images(folder: Path, names=tuple(SCENE)) -> None:
    for name in names:  # each another picture
        generator = np.random.default_rng(zlib.crc32(f"{folder.name}/{name}".encode()))
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)


def as_coco(folder: Path, names=tuple(SCENE), file="annotations.json", ids=(3, 7, 40)) -> None:
    """Ids with gaps, an unused super-category as Roboflow writes it, polygons and run lengths."""
    from pycocotools import mask

    images, annotations = [], []
    for number, name in enumerate(names):
        images.append(
            {"id": 10 * number, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1}
        )
        for cls, polygon in SCENE[name]:
            shape = [flat(polygon)]
            if len(polygon) == 3:
                code = mask.encode(np.asfortranarray(bitmap(polygon)))
                shape = {"size": code["size"], "counts": code["counts"].decode()}
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": 10 * number,
                    "category_id": ids[CLASSES.index(cls)],
                    "bbox": list(box(polygon)),
                    "area": float(bitmap(polygon).sum()),
                    "segmentation": shape,
                    "iscrowd": 0,
                    "extra": {"track": None},
                }
            )
    categories = [{"id": 0, "name": "things", "supercategory": "none"}] + [
        {"id": number, "name": name, "supercategory": "things"}
        for number, name in zip(ids, CLASSES, strict=True)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps({"info": {}, **content}))


def coco(root: Path) -> None:
    write_images(root / "images")
    as_coco(root, file="annotations/instances_default.json")


def split_coco(root: Path) -> None:
    """Roboflow's layout: a folder a split, with images and their json."""
    names = tuple(SCENE)
    for split, chosen in (("train", names[:4]), ("valid", names[4:])):
        write_images(root / split, chosen)
        as_coco(root / split, chosen, "_annotations.coco.json")


def voc(root: Path) -> None:
    write_images(root / "JPEGImages")
    for name, objects in SCENE.items():
        file = root / "Annotations" / Path(name).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = "".join(
            f"<object><name>{cls}</name><pose>Unspecified</pose><difficult>0</difficult><bndbox>"
            f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}.0</ymax>"
            "</bndbox></object>"
            for cls, polygon in objects
            for x, y, w, h in [box(polygon)]
        )
        file.write_text(
            f"<annotation><folder>x</folder><filename>{name}</filename><path>C:\\x\\{name}</path>"
            f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>{parts}</annotation>",
            encoding="utf-8",
        )
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/default.txt").write_text("\n".join(SCENE))


def _yolo(folder: Path, labels: Path, polygons: bool, names=tuple(SCENE)) -> None:
    write_images(folder, names)
    for name in names:
        lines = []
        for cls, polygon in SCENE[name]:
            if polygons:
                numbers = [v / (WIDTH, HEIGHT)[i % 2] for i, v in enumerate(flat(polygon))]
            else:
                x, y, w, h = box(polygon)
                numbers = [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT]
            lines.append(f"{CLASSES.index(cls)} " + " ".join(f"{v:.6f}" for v in numbers))
        file = labels / Path(name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        if lines:  # an image without objects needs no file
            file.write_text("\n".join(lines) + "\n")


def yolo(root: Path) -> None:
    """Ultralytics' layout, one split."""
    _yolo(root / "images", root / "labels", polygons=False)
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images\nnames:\n{names}\n", encoding="utf-8")


def yolo_polygons(root: Path) -> None:
    """Label Studio's YOLO: classes.txt beside the folders."""
    _yolo(root / "images", root / "labels", polygons=True)
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    (root / "notes.json").write_text(json.dumps({"categories": [], "info": {}}))


def cvat_yolo(root: Path) -> None:
    """CVAT's "YOLO 1.1": labels beside images, obj.names and a list of files."""
    _yolo(root / "obj_train_data", root / "obj_train_data", polygons=False)
    (root / "obj.names").write_text("\n".join(CLASSES), encoding="utf-8")
    (root / "obj.data").write_text("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n")
    lines = [f"data/obj_train_data/{name}" for name in SCENE]
    (root / "train.txt").write_text("\n".join(lines), encoding="utf-8")


def labelme(root: Path) -> None:
    write_images(root)
    for name, objects in SCENE.items():
        shapes = [
            {"label": cls, "points": polygon, "group_id": None, "shape_type": "polygon"}
            for cls, polygon in objects
        ]
        if name == "f.jpg":  # a mask: its own box, and a png in text
            x, y, w, h = box(objects[0][1])
            part = Image.fromarray(np.full((h + 1, w + 1), 255, np.uint8))
            file = io.BytesIO()
            part.save(file, "PNG")
            text = base64.b64encode(file.getvalue()).decode()
            shapes = [
                {"label": "cat", "points": [[x, y], [x + w, y + h]], "shape_type": "mask",
                 "mask": text}
            ]  # fmt: skip
        content = {
            "version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": None,
            "imagePath": f"..\\{Path(name).name}", "imageHeight": HEIGHT, "imageWidth": WIDTH,
        }  # fmt: skip
        (root / name).with_suffix(".json").write_text(json.dumps(content))


def cvat(root: Path) -> None:
    write_images(root / "images")
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    images = []
    for number, (name, objects) in enumerate(SCENE.items()):
        shapes = []
        for cls, polygon in objects:
            x, y, w, h = box(polygon)
            if name == "f.jpg":
                shapes.append(
                    f'<mask label={quoteattr(cls)} rle="0, {w * h}" left="{x}" top="{y}" '
                    f'width="{w}" height="{h}" z_order="0"/>'
                )
            else:
                points = ";".join(f"{a}.00,{b}.00" for a, b in polygon)
                shapes.append(f'<polygon label={quoteattr(cls)} points="{points}" occluded="0"/>')
        images.append(
            f'<image id="{number}" name={quoteattr(name)} width="{WIDTH}" height="{HEIGHT}">'
            f"{''.join(shapes)}</image>"
        )
    (root / "annotations.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task>'
        f"<labels>{labels}</labels></task></meta>{''.join(images)}</annotations>",
        encoding="utf-8",
    )


def label_studio(root: Path) -> None:
    write_images(root / "upload")
    tasks = []
    for number, (name, objects) in enumerate(SCENE.items()):
        results = []
        for cls, polygon in objects:
            x, y, w, h = box(polygon)
            corner = {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT}
            value = {**corner, "width": 100 * w / WIDTH, "height": 100 * h / HEIGHT,
                     "rotation": 0, "rectanglelabels": [cls]}  # fmt: skip
            kind = "rectanglelabels"
            if len(polygon) == 3:
                kind = "polygonlabels"
                points = [[100 * a / WIDTH, 100 * b / HEIGHT] for a, b in polygon]
                value = {"points": points, "closed": True, "polygonlabels": [cls]}
            results.append({"type": kind, "value": value, "from_name": "label", "to_name": "image",
                            "original_width": WIDTH, "original_height": HEIGHT})  # fmt: skip
        tasks.append(
            {"id": number, "data": {"image": f"/data/upload/1/0123abcd-{name.rpartition('/')[2]}"},
             "annotations": [{"id": 1, "was_cancelled": False, "result": results}]}
        )  # fmt: skip
    (root / "project-1-at-2026.json").write_text(json.dumps(tasks), encoding="utf-8")


def createml(root: Path) -> None:
    write_images(root)
    content = [
        {
            "image": name.rpartition("/")[2],
            "annotations": [
                {
                    "label": cls,
                    "coordinates": {"x": x + w / 2, "y": y + h / 2, "width": w, "height": h},
                }
                for cls, polygon in objects
                for x, y, w, h in [box(polygon)]
            ],
        }
        for name, objects in SCENE.items()
    ]  # fmt: skip
    (root / "_annotations.createml.json").write_text(json.dumps(content), encoding="utf-8")


def table(root: Path) -> None:
    """Roboflow's csv for TensorFlow; images without objects have no line."""
    write_images(root)
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name, objects in SCENE.items():
        for cls, polygon in objects:
            x, y, w, h = box(polygon)
            lines.append(
                f"{name.rpartition('/')[2]},{WIDTH},{HEIGHT},{cls},{x},{y},{x + w},{y + h}"
            )
    (root / "_annotations.csv").write_text("\n".join(lines), encoding="utf-8")


def cvat_video(root: Path) -> None:
    """Frames have numbers only, and a shape is one of a track; outside it is not to be seen."""
    tracks = []
    for number, (name, objects) in enumerate(SCENE.items()):
        write_images(root / "images", [name])
        (root / "images" / name).rename(root / f"images/frame_{number:06d}.jpg")
        for cls, polygon in objects:
            points = ";".join(f"{a}.00,{b}.00" for a, b in polygon)
            shapes = "".join(
                f'<polygon frame="{frame}" keyframe="1" outside="{outside}" points="{points}"/>'
                for frame, outside in ((number, 0), (number + 1, 1))
            )
            tracks.append(f'<track id="{len(tracks)}" label={quoteattr(cls)}>{shapes}</track>')
    (root / "images/b").rmdir()
    (root / "annotations.xml").write_text(
        f"<annotations><meta><task><original_size><width>{WIDTH}</width><height>{HEIGHT}</height>"
        f"</original_size></task></meta>{''.join(tracks)}</annotations>",
        encoding="utf-8",
    )


def via_regions(objects: list) -> list[dict]:
    return [
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": [x for x, _ in polygon],
                "all_points_y": [y for _, y in polygon],
            },
            "region_attributes": {"id": "7", "class": {cls: True, "other": False}},
        }
        for cls, polygon in objects
    ]


def via(root: Path) -> None:
    write_images(root)
    images = {
        f"{name}123": {"filename": name, "size": 123, "regions": via_regions(objects)}
        for name, objects in SCENE.items()
    }
    content = {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}}
    (root / "via_project.json").write_text(json.dumps(content), encoding="utf-8")


def via_csv(root: Path) -> None:
    write_images(root)
    with open(root / "via_export_csv.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            ["#filename", "file_size", "file_attributes", "region_count", "region_id",
             "region_shape_attributes", "region_attributes"]
        )  # fmt: skip
        for name, objects in SCENE.items():
            found = via_regions(objects) or [{"shape_attributes": {}, "region_attributes": {}}]
            for number, region in enumerate(found):
                cells = [json.dumps(region[key]) for key in region]
                table.writerow([name, 123, "{}", len(objects), number, *cells])


def panoptic(root: Path) -> None:
    """A png of segments for each image; the sky is no object."""
    write_images(root / "val")
    annotations = []
    for name, objects in SCENE.items():
        numbers = np.full((HEIGHT, WIDTH), 70_000)  # more than two colours can number
        segments = [{"id": 70_000, "category_id": 9, "iscrowd": 0, "area": 1}]
        for number, (cls, polygon) in enumerate(objects, 300):
            numbers[bitmap(polygon) > 0] = number
            segments.append({"id": number, "category_id": CLASSES.index(cls) + 1, "iscrowd": 0})
        file = root / "panoptic_val" / Path(name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        colours = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=2)
        Image.fromarray(colours.astype(np.uint8)).save(file)
        annotations.append(
            {"image_id": name, "file_name": file.name, "segments_info": segments}
        )  # fmt: skip
    sizes = {"width": WIDTH, "height": HEIGHT}
    content = {
        "images": [{"id": name, "file_name": name, **sizes} for name in SCENE],
        "annotations": annotations,
        "categories": [{"id": n, "name": c, "isthing": 1} for n, c in enumerate(CLASSES, 1)]
        + [{"id": 9, "name": "sky", "isthing": 0}],
    }
    (root / "panoptic_val.json").write_text(json.dumps(content), encoding="utf-8")


BOXES: dict[str, Callable[[Path], None]] = {
    "coco": coco, "voc": voc, "yolo": yolo, "yolo polygons": yolo_polygons, "cvat yolo": cvat_yolo,
    "labelme": labelme, "cvat": cvat, "label studio": label_studio, "createml": createml,
    "csv": table, "cvat video": cvat_video, "via": via, "via csv": via_csv, "panoptic": panoptic,
}  # fmt: skip
POLYGONS = {
    name: BOXES[name]
    for name in ("coco", "yolo polygons", "labelme", "cvat", "via", "via csv", "panoptic")
}


def class_map(name: str) -> np.ndarray:
    """The classes of an image from 1, 0 where none is."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for cls, polygon in SCENE[name]:
        values[bitmap(polygon) > 0] = 1 + CLASSES.index(cls)
    return values


COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]


def masks(root: Path, kind: str) -> None:
    """Images and masks in two folders: numbers, binary, palette, colours, named colours."""
    write_images(root / "images")
    for name in SCENE:
        values = class_map(name)
        if kind == "binary":
            picture = Image.fromarray((values > 0).astype(np.uint8) * 255)
        elif kind == "colours":
            picture = Image.fromarray(np.uint8(COLOURS)[values])
        else:
            picture = Image.fromarray(values)
            if kind == "palette":
                picture = picture.convert("P")
                picture.putdata(values.ravel().tolist())
                picture.putpalette([v for colour in COLOURS for v in colour])
        file = root / "masks" / Path(name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
