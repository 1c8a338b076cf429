"""The table of mixers: complete, its closed forms are right, and what measures it is."""

import math

import mixer_table as mixers
import torch
from shared import measure, threads

from mmvitconv.models.layers import MIXERS
from mmvitconv.zoo.costs import peak_memory

CHANNELS, HEADS = 24, 3


def test_every_mixer_has_a_row():
    names = [row.name for row in mixers.ROWS]
    assert len(set(names)) == len(names)
    assert set(MIXERS) <= set(names)
    for family in ("FCViT", "LightViT", "ConvMixer", "ParC pair", "ParC pair, dense", "ParCNetV2"):
        assert any(name.startswith(family) for name in names), family


def test_every_row_is_described():
    rows = [mixers.describe(row, CHANNELS, HEADS, 7) for row in mixers.ROWS]
    for columns in (*rows, *mixers.KNOWN_ELSEWHERE.values()):
        assert list(columns) == list(mixers.COLUMNS)
        assert all(isinstance(value, str) and value for value in columns.values())


def test_costs_of_all_rows():
    costs = mixers.measure_costs(mixers.ROWS, 7, CHANNELS, HEADS, 2, "cpu", 1)
    assert [cost.mixer for cost in costs] == [row.name for row in mixers.ROWS]
    map_bytes = 2 * CHANNELS * 49 * 4
    for cost in costs:
        assert min(cost.params, cost.macs, cost.forward_ms, cost.training_ms) > 0
        assert cost.memory >= 2 * map_bytes, cost  # at least the output and the input's gradient
    by_name = {cost.mixer: cost for cost in costs}
    assert by_name["deit"].params == 4 * CHANNELS**2 + 4 * CHANNELS
    assert by_name["deit"].macs == 4 * 49 * CHANNELS**2 + 2 * 49**2 * CHANNELS


def test_lightvit_adapter_keeps_windows_in_their_places():
    torch.manual_seed(0)
    module = mixers.GlobalTokenAttention(CHANNELS, HEADS).double().eval()
    x = torch.randn(2, CHANNELS, 14, 21, dtype=torch.float64)
    rolled = module(x.roll((7, 7), dims=(2, 3)))
    assert module(x).shape == x.shape
    torch.testing.assert_close(rolled, module(x).roll((7, 7), dims=(2, 3)))
    other = x.clone()
    other[:, :, 0, 0] += 1  # global tokens carry it into all windows
    assert ((module(other) - module(x)).abs().amax(1) > 1e-9).all()


def test_chunks_save_memory_and_the_count_repeats():
    first, second = (
        mixers.attention_memory(CHANNELS, HEADS, 32, query_chunks=(None, 64)) for _ in "ab"
    )
    assert first == second
    assert first[None] >= 3 * HEADS * 32**4 * 4  # scores, activated scores, a gradient
    assert first[64] <= first[None] / 4


def test_window_ratios():
    (row,) = mixers.window_ratios([8], CHANNELS, HEADS, rounds=1)
    assert row["side"] == 8
    assert row["ratio"] == row["swin"] / row["dwvit"]
    pair = (row["swin"] + row["swin, shifted"]) / 2
    assert math.isclose(row["ratio_of_pair"], pair / row["dwvit"])


def test_plot(tmp_path):
    costs = [
        mixers.Cost(row.name, side, 1, 1, side**2 / 100, 1.0, 1)
        for row in mixers.ROWS
        for side in (7, 14)
    ]
    mixers.plot(mixers.ROWS, costs, "title", tmp_path / "a.png")
    mixers.plot(mixers.ROWS[1:3], costs[2:6], "title", tmp_path / "b.png")  # without the reference
    assert (tmp_path / "a.png").stat().st_size > 20_000
    assert (tmp_path / "b.png").stat().st_size > 10_000


def test_measure_takes_turns():
    calls = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    times = measure(functions, rounds=2)
    assert calls == list("abcbcacab")  # the first three warm up
    assert list(times) == list("abc")
    assert min(times.values()) > 0


def test_peak_memory_counts_what_is_alive():
    existing = torch.zeros(1000)

    def chain():
        out = existing.view(10, 100)  # free
        for _ in range(5):
            out = out + 1  # two at a time
        return out

    assert peak_memory(chain) == 2 * 4000
    weight = torch.zeros(1000, requires_grad=True)

    def train():
        out = weight
        for _ in range(3):
            out = out.sin()  # keeps its input, so all but the last are alive
        return torch.autograd.grad(out, weight, existing)

    assert 4 * 4000 <= peak_memory(train) <= 6 * 4000
    assert peak_memory(train) == peak_memory(train)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
