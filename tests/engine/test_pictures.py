"""Names of pictures, and settings that differ when a run goes on."""

from types import SimpleNamespace

import pytest

from mmvitconv.engine.pictures import UniquePicturesHook, unique_names
from mmvitconv.engine.resume import compare_configs


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["d/a/1.png", "d/b/1.png", "d/b/2.png"], ["a__1.png", "b__1.png"]),
        (["d/1.png", "d/b/1.png"], ["1.png", "b__1.png"]),
        (["/x/1.png", "/y/z/1.png"], ["x__1.png", "y__z__1.png"]),
        (["a.png", "b.png"], []),
        (["a.png", "a.png"], []),
    ],
)
def test_names_of_equal_files(paths, names):
    assert list(unique_names(paths).values()) == names


def test_the_visualizer_writes_each_picture():
    written = []
    visualizer = SimpleNamespace(
        add_datasample=lambda name, image, data_sample, out_file=None: written.append(
            (name, out_file)
        )
    )
    infos = [{"img_path": f"d/{folder}/1.png"} for folder in "ab"] + [{"img_path": "d/a/2.png"}]
    methods = {"__len__": lambda self: 3, "get_data_info": lambda self, number: infos[number]}
    dataset = type("Data", (), methods)()
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    runner = SimpleNamespace(visualizer=visualizer, test_loop=loop)
    hook = UniquePicturesHook()
    hook.before_test(runner)
    for info in infos:
        sample, file = SimpleNamespace(**info), info["img_path"].rpartition("/")[2]
        visualizer.add_datasample(f"test_{file}", None, data_sample=sample, out_file=f"out/{file}")
    assert written == [
        ("test_a__1.png", "out/a__1.png"),
        ("test_b__1.png", "out/b__1.png"),
        ("test_2.png", "out/2.png"),
    ]


def test_what_differs_from_the_checkpoint():
    text = (
        "train_cfg = dict(max_epochs=2, type='Loop')\n"
        "train_dataloader = dict(batch_size=4, dataset=dict(metainfo=dict(classes=('a', ))))\n"
        "strange = print('executed')\n"
    )
    now = {
        "train_cfg": {"max_epochs": 9},
        "train_dataloader": {"batch_size": 4, "dataset": {"metainfo": {"classes": ["b"]}}},
    }
    notes = compare_configs(text, now)
    assert [note.partition(" is another")[0] for note in notes] == [
        "train_cfg.max_epochs",
        "train_dataloader.dataset.metainfo.classes",
    ]
    assert "2 before, 9 now" in notes[0]
    assert compare_configs("a = (", now) == compare_configs(None, now) == []
    (note,) = compare_configs(f"a = [{'0, ' * 400_000}]", now)
    assert note.startswith("the checkpoint's config of 1,200,006 characters is not compared")
