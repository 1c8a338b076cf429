"""Accelerated models give what torch gives at any size, from any thread, or say they cannot."""

import copy
import ctypes
import pickle
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families import FAMILIES, shallow
from torch import Tensor, nn

from mmvitconv.apis.inference import Predictor
from mmvitconv.errors import UserError
from mmvitconv.export.subject import fill_statistics
from mmvitconv.runtime import accelerate, graphs, networks, openvino
from mmvitconv.runtime.tracing import write_onnx

CONFIGS = Path(__file__).parents[2] / "configs"
WINDOWED = ("DynConvSwin", "LightViT")


@pytest.fixture(autouse=True, scope="module")
def _graphs(tmp_path_factory: pytest.TempPathFactory):
    """A cache of graphs that this module shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMVITCONV_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    arch = shallow(name)
    if name in WINDOWED:  # every second block shifts its windows
        arch["depths"] = (2,) * len(arch["depths"])
    backbone = FAMILIES[name](arch, **options).eval()
    fill_statistics(backbone)
    return backbone


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return model(x)


def difference(outs, expected) -> float:
    """The largest over all maps, in parts of the map's scale."""
    assert [out.shape for out in outs] == [right.shape for right in expected]
    return max(
        float((out - right).abs().max() / right.abs().max())
        for out, right in zip(outs, expected, strict=True)
    )


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return build("ConvMixer")


@pytest.fixture
def fast(plain: nn.Module) -> nn.Module:
    return accelerate(plain)


CASES = [
    *((name, "openvino", {}) for name in FAMILIES),
    ("ConvMixer", "onnxruntime", {}),
    ("DynConvViT", "onnxruntime", {"mixer": "ln_relu"}),
    ("DynConvSwin", "onnxruntime", {"mixer": "ln_relu"}),
    ("ParCResNet", "onnxruntime", {}),
]


@pytest.mark.graph
@pytest.mark.parametrize(("name", "runtime", "options"), CASES)
def test_one_graph_takes_all_sizes(name: str, runtime: str, options: dict, monkeypatch):
    model = build(name, **options)
    fast = accelerate(model, runtime)
    monkeypatch.setattr(networks, "write_onnx", None)  # nothing is traced any more
    generator = torch.Generator().manual_seed(len(name))
    for height, width in torch.randint(33, 300, (4, 2), generator=generator).tolist():
        x = torch.randn(int(height % 3 + 1), 3, height, width)
        assert difference(run(fast, x), run(model, x)) < 1e-5
    (graph,) = vars(fast)["forward"]._graphs.values()
    # engines and NNCF treat each branch as a graph of its own, which takes them minutes
    assert not {"If", "Loop"} & {node.op_type for node in onnx.load(graph.path).graph.node}


def test_sizes_have_graphs_of_their_own(plain):
    fast = accelerate(plain, sizes=[(48, 56)])
    network = vars(fast)["forward"]
    assert sorted(is_open for is_open, *_ in network._graphs) in ([False], [False, True])
    for shape in ((2, 3, 48, 56), (1, 3, 50, 71)):
        x = torch.randn(shape)
        assert difference(run(fast, x), run(plain, x)) < 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_itself(plain, precision: str):
    fast = accelerate(plain, "eager", precision)
    x = torch.randn(1, 3, 40, 40)
    (out,) = run(fast, x)
    assert out.dtype == torch.float32
    # bfloat16 has 8 bits, and errors of a few layers add up
    assert difference((out,), run(plain, x)) < {"fp32": 1e-5, "bf16": 0.1}[precision]


def test_a_wrong_graph_is_not_used(monkeypatch):
    model = build("ConvMixer", out_indices=(0,), patch_size=5)
    load = openvino.load

    def mutated(*args):
        right = load(*args)
        return lambda inputs: [out * 1.001 for out in right(inputs)]

    monkeypatch.setattr(openvino, "load", mutated)
    with pytest.warns(UserWarning, match="it differs by 1.0e-03 of the scale"):
        fast = accelerate(model)
    x = torch.randn(1, 3, 40, 40)
    with pytest.warns(UserWarning, match="cannot be had as a graph of this size, so it runs in"):
        outs = run(fast, x)
    assert difference(outs, run(model, x)) < 1e-5
    assert difference(run(fast, x), run(model, x)) < 1e-5


def test_shapes_that_come_often_have_a_compilation_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    load, compiled = openvino.load, []

    def counting(*args):
        compiled.append(args[4:])  # shapes, if any
        return load(*args)

    monkeypatch.setattr(openvino, "load", counting)
    monkeypatch.setattr(graphs, "MOST_FIXED", 2)
    model = build("ConvMixer", out_indices=(0,), patch_size=5)
    fast = accelerate(model)
    often, seldom = torch.randn(1, 3, 40, 45), torch.randn(2, 3, 40, 40)
    del compiled[:]
    for x in (often, seldom) * graphs.OFTEN:  # never twice in a row
        assert difference(run(fast, x), run(model, x)) < 1e-5
    assert not compiled
    for _ in range(graphs.OFTEN + 1):
        assert difference(run(fast, often), run(model, often)) < 1e-5
    assert compiled == [([tuple(often.shape)],)]
    assert difference(run(fast, seldom), run(model, seldom)) < 1e-5

    # a later start takes it from the first call on
    later = accelerate(model)
    assert difference(run(later, often), run(model, often)) < 1e-5
    assert compiled[2:] == [([tuple(often.shape)],)]
    # and there is room for one more
    for side in (50, 55):
        x = torch.randn(1, 3, side, side)
        for _ in range(graphs.OFTEN):
            run(later, x)
    assert compiled[3:] == [([(1, 3, 50, 50)],)]


def test_a_wrong_compilation_for_a_shape_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    load = openvino.load

    def mutated(*args):
        right = load(*args)
        return (lambda inputs: [out * 1.001 for out in right(inputs)]) if args[4:] else right

    monkeypatch.setattr(openvino, "load", mutated)
    model = build("ConvMixer", out_indices=(0,), patch_size=5)
    fast, x = accelerate(model), torch.randn(1, 3, 40, 40)
    for _ in range(graphs.OFTEN - 1):
        run(fast, x)
    with pytest.warns(UserWarning, match=r"alone is of no use.*it differs by 1.0e-03"):
        run(fast, x)
    assert difference(run(fast, x), run(model, x)) < 1e-5
    assert not list(tmp_path.rglob("*40*.blob"))


def test_what_a_full_disk_left_is_compiled_again(tmp_path):
    model = build("ConvMixer", out_indices=(0,), patch_size=5)
    path, x = tmp_path / "graph.onnx", torch.randn(1, 3, 40, 40)
    write_onnx(model, path, [x], ["x"], ["y"], {})
    kept = tmp_path / "graph.blob"
    kept.write_bytes(b"half of")
    (out,) = openvino.load(path, "fp32", 1, kept)([x])
    assert difference((out,), run(model, x)) < 1e-5
    assert kept.stat().st_size > 1000
    (out,) = openvino.load(Path("none.onnx"), "fp32", 1, kept)([x])
    assert difference((out,), run(model, x)) < 1e-5


class Picky(nn.Module):
    """Decides by the size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * int(x.shape[2])


def test_what_decides_by_the_size_has_graphs_for_each(monkeypatch):
    model = Picky().eval()
    with pytest.warns(UserWarning, match="as a graph of any size, so there will be one for each"):
        fast = accelerate(model)
    monkeypatch.setattr(networks, "MOST_SIZES", 2)
    for height in (5, 6, 7, 5):
        x = torch.randn(2, 3, height, 4)
        torch.testing.assert_close(run(fast, x), run(model, x))
    assert len(vars(fast)["forward"]._graphs) == 2


def test_threads_share_a_model(plain, fast):
    images = [torch.randn(1, 3, 30 + 7 * i, 64) for i in range(4)]
    expected = [run(plain, x) for x in images]
    worst: list[float] = []

    def work(index: int) -> None:
        for _ in range(5):
            worst.append(difference(run(fast, images[index]), expected[index]))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(worst) == 20
    assert max(worst) < 1e-5


def test_the_number_of_threads_is_torchs(fast):
    before = torch.get_num_threads()
    x = torch.randn(1, 3, 32, 32)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            run(fast, x)
    finally:
        torch.set_num_threads(before)
    (graph,) = vars(fast)["forward"]._graphs.values()
    assert list(graph.loaded) == [1, 2]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_recipes(fast, duplicate):
    x = torch.randn(1, 3, 32, 32)
    expected = run(fast, x)
    assert len(pickle.dumps(fast)) < 2 * sum(p.nbytes for p in fast.parameters()) + 50_000
    again = duplicate(fast)
    assert not vars(again)["forward"]._graphs
    assert all(map(torch.equal, run(again, x), expected))
    assert vars(again)["forward"].module is again


def change_through_data(model: nn.Module) -> None:
    next(model.parameters()).data.mul_(1.5)


def change_a_value(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = 7.0


def replace(model: nn.Module) -> None:
    layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    layer.weight = nn.Parameter(layer.weight + 1)


def load(model: nn.Module) -> None:
    model.load_state_dict({key: 2 * value for key, value in model.state_dict().items()})


@pytest.mark.parametrize("change", [change_through_data, change_a_value, replace, load])
@pytest.mark.parametrize("calls", [0, 1])
def test_weights_that_change_are_refused(fast, change, calls: int):
    x = torch.randn(1, 3, 32, 32)
    for _ in range(calls):
        run(fast, x)
    change(fast)
    with pytest.raises(RuntimeError, match="the weights of model have changed since accelerate"):
        run(fast, x)


def test_it_does_not_train(fast, plain):
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fast.train()
    with pytest.raises(RuntimeError, match="accelerated already"):
        accelerate(fast.eval(), "onnxruntime")
    with pytest.raises(RuntimeError, match=r"call model.eval\(\) first"):
        accelerate(copy.deepcopy(plain).train())


def test_a_later_start_makes_nothing(plain, fast, monkeypatch):
    x = torch.randn(1, 3, 32, 32)
    expected = run(fast, x)
    monkeypatch.setattr(networks, "write_onnx", None)
    assert all(map(torch.equal, run(accelerate(plain), x), expected))


def test_signal_handlers_keep_their_stack(plain):
    """OpenVINO's own would be gone with the model, and the next signal would crash."""
    stack = openvino._Stack()
    exchange = ctypes.CDLL(None).sigaltstack
    exchange(None, ctypes.byref(stack))
    before = bytes(stack)
    run(accelerate(plain, "openvino", "bf16"), torch.randn(1, 3, 32, 32))
    exchange(None, ctypes.byref(stack))
    assert bytes(stack) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "give one of openvino, onnxruntime, inductor, eager"),
        ({"runtime": "onnxruntime", "precision": "bf16"}, "give fp32, or one of the runtimes open"),
        ({"precision": "int4"}, "'openvino' has no precision 'int4'; give fp32 or bf16"),
    ],
)
def test_what_cannot_be_had(plain, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        accelerate(plain, **options)


def test_a_missing_package(plain, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(UserError, match="needs openvino; run: pip install openvino"):
        accelerate(plain)


PARTS = {
    "maskrcnn_fcvit_tiny_nuclei": 5,
    "retinanet_fcvit_tiny_trees": 3,
    "upernet_fcvit_tiny_nuclei": 2,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PARTS)
def test_whole_models(name: str, runner_state):
    config = next(CONFIGS.rglob(f"{name}.py"))
    predictors = [Predictor(config, runtime=runtime) for runtime in ("eager", "openvino")]
    compiled = [m for m in predictors[1].model.modules() if "forward" in vars(m)]
    assert len(compiled) == PARTS[name]
    image = np.random.default_rng(0).integers(0, 255, (150, 190, 3), dtype=np.uint8)
    ours, theirs = (p.predict(image, score_threshold=0.0)[0] for p in predictors)
    if predictors[0].task == "segmentation":
        assert (ours.class_map == theirs.class_map).mean() > 0.999
    else:
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.01)
