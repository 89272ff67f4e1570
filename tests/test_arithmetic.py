"""The arithmetic against slow, obvious re-computations, so that a clone without the reference suites tests it too."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import tiny_config

from efficienttam_hf import EfficientTamVideoModel, FrameMemory, ObjectMemory
from efficienttam_hf.modeling_efficienttam_layers import sine_position_encoding
from efficienttam_hf.modeling_efficienttam_memory import (
    EfficientTamMemoryCrossAttention,
    from_windows,
    pool_squares,
    pools,
    rotary_table,
    rotate,
    to_windows,
)
from efficienttam_hf.modeling_efficienttam_vision import (
    EfficientTamVisionAttention,
    merge_windows,
    partition_windows,
)
from efficienttam_hf.object_memory import closest_conditioning_frames
from efficienttam_hf.tracking_rules import Direction, TrackingRules


CPU = torch.device("cpu")


def rotate_by_hand(token: np.ndarray, row: int, column: int, theta: float) -> np.ndarray:
    """One token's channels as complex numbers, turned one by one."""
    channels = len(token)
    turned = np.empty(channels)
    for pair in range(channels // 2):
        place, k = (column, pair) if pair < channels // 4 else (row, pair - channels // 4)
        angle = place / theta ** (4 * k / channels)
        z = complex(token[2 * pair], token[2 * pair + 1]) * complex(math.cos(angle), math.sin(angle))
        turned[2 * pair], turned[2 * pair + 1] = z.real, z.imag
    return turned


def test_rotary_encoding_turns_pairs_by_column_then_row():
    tokens = torch.randn(1, 1, 3 * 5, 8)
    ours = rotate(tokens, rotary_table((3, 5), 8, 100.0, CPU))[0, 0].numpy()
    for row in range(3):
        for column in range(5):
            expected = rotate_by_hand(tokens[0, 0, row * 5 + column].numpy(), row, column, 100.0)
            np.testing.assert_allclose(ours[row * 5 + column], expected, atol=1e-5)


def test_rotary_scores_depend_on_distance_only():
    query, key = torch.randn(1, 1, 1, 16).expand(1, 1, 36, 16), torch.randn(1, 1, 1, 16).expand(1, 1, 36, 16)
    table = rotary_table((6, 6), 16, 10000.0, CPU)
    scores = (rotate(query, table) @ rotate(key, table).transpose(-2, -1))[0, 0].view(6, 6, 6, 6)
    torch.testing.assert_close(scores[1, 1, 3, 4], scores[2, 0, 4, 3], atol=1e-4, rtol=1e-4)


def test_sine_encoding_by_hand():
    encoding = sine_position_encoding((3, 4), 8, 10000.0, CPU)
    for row in range(3):
        for column in range(4):
            expected = []
            for position, length in ((row, 3), (column, 4)):
                angle = (position + 1) / (length + 1e-6) * 2 * math.pi
                for channel in range(4):
                    turn = angle / 10000.0 ** (2 * (channel // 2) / 4)
                    expected.append(math.sin(turn) if channel % 2 == 0 else math.cos(turn))
            np.testing.assert_allclose(encoding[:, row, column].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (6, 9), (7, 4), (3, 3)])
def test_windows_come_back_whole(size):
    features = torch.randn(2, *size, 5)
    windows = partition_windows(features, 3, torch.zeros(5))
    assert windows.shape[1:] == (3, 3, 5)
    torch.testing.assert_close(merge_windows(windows, size), features)


def test_windowed_attention_pads_with_zeros_before_projecting():
    """The published block pads the normalised map with zeros; their keys and values are the projection's bias."""
    config = tiny_config().vision_config
    config._attn_implementation = "eager"
    attention = EfficientTamVisionAttention(config, window_size=3).eval()
    features = torch.randn(1, 4, 5, 48)
    padded = F.pad(features, (0, 0, 0, 1, 0, 2))  # to 6 x 6
    expected = torch.zeros(1, 6, 6, 48)
    for top in (0, 3):
        for left in (0, 3):
            tokens = padded[0, top : top + 3, left : left + 3].reshape(9, 48)
            query, key, value = (attention.qkv(tokens).view(9, 3, 3, 16)[:, i].transpose(0, 1) for i in range(3))
            weights = (query @ key.transpose(-2, -1) / 4.0).softmax(-1)
            expected[0, top : top + 3, left : left + 3] = (weights @ value).transpose(0, 1).reshape(3, 3, 48)
    expected = attention.proj(expected[:, :4, :5])
    torch.testing.assert_close(attention(features)[0], expected, atol=1e-5, rtol=1e-5)


def cross_attention(kind: str, **fields) -> EfficientTamMemoryCrossAttention:
    config = tiny_config().memory_attention_config
    config._attn_implementation = "eager"
    for name, value in {"cross_attention": kind, **fields}.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return EfficientTamMemoryCrossAttention(config).eval()


def attend_to(module, tokens, memory, positions, pointers, table, size):
    """The module's output, its keys and values made of memories as `EfficientTamMemoryAttention` makes them."""
    pooled = pools(module.config, memory.shape[1])
    values = pool_squares(memory, size, module.config.pool_size) if pooled else memory
    return module(tokens, memory + positions, values, pointers, table, size)


def attend_by_hand(module, size, tokens, memory, positions, pointers):
    """One head, token by token: logits over pooled memories and pointers, their softmax, the weighted values."""
    height, width = size
    config, theta = module.config, module.config.rope_theta
    kind, pool, channels = config.cross_attention, config.pool_size, tokens.shape[-1]
    single = memory.shape[1] == 1
    linear = lambda layer, x: (layer.weight @ x + layer.bias).detach()  # noqa: E731
    turn = lambda x, n: torch.tensor(rotate_by_hand(x.numpy(), n // width, n % width, theta)).float()  # noqa: E731

    keys, values, biases = [], [], []
    for m in range(memory.shape[1]):
        key = [turn(linear(module.k_proj, memory[0, m, n] + positions[0, m, n]), n) for n in range(height * width)]
        value = [linear(module.v_proj, memory[0, m, n]) for n in range(height * width)]
        cells = [[n] for n in range(height * width)]
        if kind.startswith("pooled") and not single:
            cells = [
                [(r + i) * width + c + j for i in range(pool) for j in range(pool)]
                for r in range(0, height, pool)
                for c in range(0, width, pool)
            ]
        for cell in cells:
            shift = 2 * math.log(pool) if len(cell) > 1 else 0.0
            pooled = sum(key[n] for n in cell) / len(cell)
            keys.append(pooled + shift if kind == "pooled_key_shift" else pooled)
            values.append(sum(value[n] for n in cell) / len(cell))
            biases.append(shift if kind == "pooled_logit_bias" else 0.0)
    for pointer in pointers[0]:
        keys.append(linear(module.k_proj, pointer))
        values.append(linear(module.v_proj, pointer))
        biases.append(0.0)
    keys, values, biases = torch.stack(keys), torch.stack(values), torch.tensor(biases)
    rows = []
    for n in range(height * width):
        query = turn(linear(module.q_proj, tokens[0, n]), n)
        weights = (keys @ query / math.sqrt(channels) + biases).softmax(0)
        rows.append(linear(module.o_proj, weights @ values))
    return torch.stack(rows)[None]


@pytest.mark.parametrize("kind", ["full", "pooled_logit_bias", "pooled_key_shift"])
@pytest.mark.parametrize("memories", [1, 3])
def test_memory_cross_attention_by_hand(kind, memories):
    module, size = cross_attention(kind), (4, 6)
    tokens, memory = torch.randn(1, 24, 64), torch.randn(1, memories, 24, 16)
    positions, pointers = torch.randn(1, memories, 24, 16), torch.randn(1, 8, 16)
    ours = attend_to(module, tokens, memory, positions, pointers, rotary_table(size, 64, 10000.0, CPU), size)
    expected = attend_by_hand(module, size, tokens, memory, positions, pointers)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


def test_pooling_identical_tokens_changes_nothing():
    """Four equal keys and values count as their average does with log 4 on its logit: what the bias is for."""
    size = (4, 4)
    block = torch.randn(1, 2, 2, 2, 16).repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2, 3)
    full, pooled = cross_attention("full"), cross_attention("pooled_logit_bias")
    tokens, pointers = torch.randn(1, 16, 64), torch.randn(1, 4, 16)
    still = torch.ones_like(rotary_table(size, 64, 10000.0, CPU))  # no rotation
    args = (tokens, block, torch.zeros_like(block), pointers, still, size)
    torch.testing.assert_close(attend_to(full, *args), attend_to(pooled, *args), atol=1e-5, rtol=1e-5)


def test_pooling_all_tokens_pools_pointers_in_fours():
    module, size = cross_attention("pooled_logit_bias", pooling_scope="all"), (4, 4)
    table = rotary_table(size, 64, 10000.0, CPU)
    tokens, memory = torch.randn(1, 16, 64), torch.randn(1, 2, 16, 16)
    positions = torch.randn(1, 2, 16, 16)
    repeated = torch.randn(1, 2, 16).repeat_interleave(4, dim=1)  # pooling finds four equal tokens
    spatial = cross_attention("pooled_logit_bias")
    args = (tokens, memory, positions, repeated, table, size)
    torch.testing.assert_close(attend_to(module, *args), attend_to(spatial, *args), atol=1e-5, rtol=1e-5)
    other = torch.randn(1, 8, 16)
    args = (tokens, memory, positions, other, table, size)
    assert not torch.allclose(attend_to(module, *args), attend_to(spatial, *args))


def test_pooled_squares_are_means_also_at_odd_edges():
    tokens = torch.arange(15.0).view(1, 1, 15, 1)  # a 3 x 5 map
    pooled = pool_squares(tokens, (3, 5), 2).flatten()
    grid = tokens.view(3, 5)
    expected = [grid[r : r + 2, c : c + 2].mean() for r in (0, 2) for c in (0, 2, 4)]
    torch.testing.assert_close(pooled, torch.stack(expected))


def test_windowed_memory_attention_is_full_attention_behind_a_mask():
    module, size, window = cross_attention("windowed", window_size=2), (4, 6), 2
    full = cross_attention("full")
    tokens, memory = torch.randn(2, 24, 64), torch.randn(2, 3, 24, 16)
    positions, pointers = torch.randn(2, 3, 24, 16), torch.randn(2, 4, 16)
    table = rotary_table(size, 64, 10000.0, CPU)
    ours = attend_to(module, tokens, memory, positions, pointers, table, size)
    window_of = torch.tensor([(n // 6 // window) * 3 + n % 6 // window for n in range(24)])
    for w in range(6):
        inside = window_of == w
        query = rotate(full.heads(full.q_proj(tokens)), table)[:, :, inside]
        key = rotate(full.k_proj(memory + positions).unsqueeze(1), table)[:, :, :, inside].flatten(2, 3)
        value = full.v_proj(memory).unsqueeze(1)[:, :, :, inside].flatten(2, 3)
        key = torch.cat([key, full.heads(full.k_proj(pointers))], 2)
        value = torch.cat([value, full.heads(full.v_proj(pointers))], 2)
        expected = full.o_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(ours[:, inside], expected, atol=1e-5, rtol=1e-4)


def test_memory_windows_come_back_whole():
    tokens = torch.randn(2, 1, 24, 3)
    windows = to_windows(tokens, (4, 6), 2)
    assert windows.shape == (2, 6, 1, 4, 3)
    torch.testing.assert_close(from_windows(windows.squeeze(2), (4, 6), 2), tokens.squeeze(1))


# ---------------------------------------------------------------------------------------------- the selection rule


def entry(t: int) -> FrameMemory:
    """A memory that says which frame it is of."""
    one = torch.full((1, 1), float(t))
    return FrameMemory(one[None, None], one, one, one.clone(), spatial=torch.full((1, 1, 1), float(t)))


def selected(memory: ObjectMemory, frame: int, reverse: bool = False, **kwargs):
    selection = memory.select(frame, Direction.of(reverse), TrackingRules(**kwargs))
    spatial = [(int(e.spatial.item()), index) for e, index in selection.spatial]
    return spatial, [int(e.object_pointer.item()) for e in selection.pointers]


def test_a_frame_looks_at_conditioning_frames_and_the_last_six():
    memory = ObjectMemory(conditioning={0: entry(0)}, tracked={t: entry(t) for t in range(1, 20)})
    spatial, pointers = selected(memory, 20)
    assert spatial == [(0, 6), (14, 5), (15, 4), (16, 3), (17, 2), (18, 1), (19, 0)]
    assert pointers == [0, *range(19, 4, -1)]


def test_frames_ahead_give_memory_but_no_pointer():
    memory = ObjectMemory(conditioning={0: entry(0), 9: entry(9)}, tracked={t: entry(t) for t in range(1, 4)})
    assert selected(memory, 4) == ([(0, 6), (9, 6), (1, 2), (2, 1), (3, 0)], [0, 3, 2, 1])
    assert selected(memory, 4, reverse=True) == ([(0, 6), (9, 6)], [9])


def test_gaps_stay_empty():
    memory = ObjectMemory(conditioning={0: entry(0)}, tracked={5: entry(5), 8: entry(8)})
    assert selected(memory, 10) == ([(0, 6), (5, 4), (8, 1)], [0, 8, 5])


def test_a_limit_on_conditioning_frames_takes_the_closest_and_lets_the_rest_be_recent():
    memory = ObjectMemory(conditioning={t: entry(t) for t in (0, 8, 9, 20, 40)})
    spatial, _ = selected(memory, 10, max_cond_frame_num=2)
    assert spatial == [(9, 6), (20, 6), (8, 1)]
    assert closest_conditioning_frames(10, [0, 8, 9, 20, 40], 3) == [9, 20, 8]
    assert closest_conditioning_frames(10, [0, 8], -1) == [0, 8]


def test_an_object_without_a_prompted_frame_cannot_be_tracked():
    with pytest.raises(ValueError, match="prompted frame"):
        ObjectMemory(tracked={3: entry(3)}).select(4, Direction.FORWARD, TrackingRules())


def test_forgetting_keeps_what_is_near_the_frame_or_a_prompt():
    memory = ObjectMemory(conditioning={10: entry(10)}, tracked={t: entry(t) for t in range(100) if t != 10})
    rules = TrackingRules(num_maskmem=5, max_object_pointers_in_encoder=5)
    memory.forget(90, Direction.FORWARD, rules.reach, rules)
    assert sorted(memory.tracked) == [*range(6, 10), *range(11, 15), *range(86, 95)]


# -------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("pointers", [True, False])
def test_object_pointers_can_be_left_out_of_memory_attention(pointers):
    torch.manual_seed(0)
    model = EfficientTamVideoModel(tiny_config(use_object_pointers=pointers)).eval()
    from efficienttam_hf import MemoryBank

    features = torch.randn(1, 64, 8, 8)
    spatial, index = torch.randn(1, 2, 64, 16), torch.tensor([[6, 0]])
    a, b = (
        model.condition_on_memory(features, MemoryBank(spatial, index, pointers))
        for pointers in (torch.randn(1, 3, 64), torch.randn(1, 3, 64))
    )
    assert torch.equal(a, b) != pointers


@pytest.mark.parametrize("image_size", [64, 160, (96, 160), 176])
def test_any_resolution_with_a_whole_feature_map_works(image_size):
    config = tiny_config("pooled_logit_bias")
    config = type(config)(**{**config.to_dict(), "image_size": image_size})
    model = EfficientTamVideoModel(config).eval()
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    with torch.no_grad():
        features = model.get_image_features(torch.randn(1, 3, height, width)).fpn_hidden_states[-1]
        assert features.shape[-2:] == (height // 16, width // 16)
        first = model.track_step(features, input_points=torch.tensor([[[20.0, 30.0]]]), input_labels=torch.ones(1, 1))
    assert first.pred_masks.shape[-2:] == (height // 4, width // 4)
    assert first.high_res_masks.shape[-2:] == (height, width)


def test_a_resolution_without_a_whole_feature_map_is_refused():
    with pytest.raises(ValueError, match="whole feature map"):
        tiny_config().__class__(image_size=100)


def test_parameter_counts_are_the_papers():
    from efficienttam_hf import PRESETS, EfficientTamConfig

    for name in PRESETS:
        with torch.device("meta"):
            model = EfficientTamVideoModel(EfficientTamConfig.from_preset(name))
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        assert round(millions, 2) == (34.06 if "_s" in name else 17.87)
