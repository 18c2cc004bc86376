"""The two updates by hand, the reference that is only log-probabilities, and distances from a sample."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tr_align import models
from tr_align.align.reference import Reference, Sketch, hard_update, soft_update
from tr_align.align.shards import local_shards

CPU = torch.device("cpu")


def reference(shards: list[torch.Tensor], alpha: float | None, interval: int = 2, rows: int = 3) -> Reference:
    return Reference(interval, alpha, shards, (rows, 2), CPU)


def draw(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def apart(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """The Euclidean distance, in float64, of all coordinates."""
    return math.sqrt(sum(((a.double() - b.double()) ** 2).sum().item() for a, b in zip(first, second, strict=True)))


# The rules


def test_soft_update_by_hand() -> None:
    reference, policy = [torch.tensor([1.0, 0.0])], [torch.tensor([3.0, -1.0])]
    soft_update(reference, policy, alpha=0.25)  # 0.25 * 3 + 0.75 * 1, 0.25 * -1
    assert reference[0].tolist() == [1.5, -0.25]
    assert policy[0].tolist() == [3.0, -1.0]


def test_hard_update_copies() -> None:
    reference, policy = [torch.zeros(2)], [torch.tensor([3.0, -1.0])]
    hard_update(reference, policy)
    assert torch.equal(reference[0], policy[0])
    policy[0].add_(1)
    assert reference[0].tolist() == [3.0, -1.0]


def test_alpha_one_is_the_hard_update() -> None:
    reference, policy = draw((5,)), draw((5,), seed=1)
    soft_update(reference, policy, alpha=1.0)
    torch.testing.assert_close(reference[0], policy[0])


def test_a_small_alpha_moves_float32_and_not_bfloat16() -> None:
    """200 updates from 2 towards 1 with alpha 0.001: the share of the way is 1 - 0.999^200 = 0.181.

    Just below 2 the numbers of bfloat16 are 2^-7 = 0.0078 apart: a first step of 0.001 rounds back to 2, and so do all.
    """
    policy = [torch.full((4,), 1.0, dtype=torch.bfloat16)]
    exact, rounded = [torch.full((4,), 2.0)], [torch.full((4,), 2.0, dtype=torch.bfloat16)]
    for _ in range(200):
        soft_update(exact, policy, alpha=0.001)
        soft_update(rounded, policy, alpha=0.001)
    assert 2 - exact[0][0].item() == pytest.approx(1 - 0.999**200, rel=1e-4)
    assert rounded[0].tolist() == [2.0] * 4


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        soft_update([torch.zeros(1)], [torch.zeros(1)], alpha)
    with pytest.raises(ValueError, match="alpha"):
        reference([torch.zeros(1)], alpha)


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="interval"):
        reference([torch.zeros(1)], 0.5, interval=0)


def test_different_parameters_are_refused() -> None:
    with pytest.raises(ValueError):
        hard_update([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])
    with pytest.raises(ValueError, match="shapes"):
        hard_update([torch.zeros(2)], [torch.zeros(1)])


# The reference


def test_soft_updates_follow_the_recursion() -> None:
    """Eight updates against `ref <- 0.3 policy + 0.7 ref` in float64, the policy moving in between."""
    shards = draw((4, 3), (5,))
    start = [shard.clone() for shard in shards]
    ours = reference(shards, alpha=0.3)
    expected = [shard.double() for shard in shards]
    for number in range(1, 9):
        for shard, move in zip(shards, draw((4, 3), (5,), seed=number), strict=True):
            shard.add_(move)
        ours.update(2 * number)
        expected = [0.3 * shard.double() + 0.7 * old for shard, old in zip(shards, expected, strict=True)]
        for got, wanted in zip(ours.master, expected, strict=True):
            torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-6)
        distances = ours.distances()
        assert distances["ref_from_sft"].item() == pytest.approx(apart(expected, start), rel=1e-5)
        assert distances["policy_from_ref"].item() == pytest.approx(apart(shards, expected), rel=1e-5)
    assert not ours.follows_policy
    assert ours.updated_at == [2, 4, 6, 8, 10, 12, 14, 16]


def test_a_bfloat16_policy_has_a_float32_reference() -> None:
    """As above 2 towards 1, 200 times 0.001, through the class; scoring a window in between takes nothing away."""
    shards = [torch.full((4,), 2.0, dtype=torch.bfloat16)]
    ours = reference(shards, alpha=0.001, interval=1)
    shards[0].fill_(1.0)
    for step in range(1, 201):
        ours.update(step)
        with ours.weights():
            assert shards[0].dtype == torch.bfloat16
        assert shards[0].tolist() == [1.0] * 4
    assert ours.master[0].dtype == torch.float32
    assert 2 - ours.master[0][0].item() == pytest.approx(1 - 0.999**200, rel=1e-4)


def test_hard_updates_keep_no_weights() -> None:
    shards = draw((4, 3), (5,))
    start = [shard.clone() for shard in shards]
    ours = reference(shards, alpha=1.0)
    assert ours.follows_policy and ours.master == []
    for shard in shards:
        shard.add_(1.0)
    then = [shard.clone() for shard in shards]
    # Until the update the reference is the SFT model; 17 coordinates, each 1 away.
    assert ours.distances()["ref_from_sft"].item() == 0
    assert ours.distances()["policy_from_ref"].item() == pytest.approx(math.sqrt(17))
    ours.update(2)
    for shard in shards:
        shard.mul_(2.0)
    assert ours.distances()["ref_from_sft"].item() == pytest.approx(math.sqrt(17))
    assert ours.distances()["policy_from_ref"].item() == pytest.approx(apart(shards, then), rel=1e-5)
    assert apart(then, start) == pytest.approx(math.sqrt(17))
    with ours.weights():  # nothing to put in their place
        assert all(torch.equal(shard, 2 * old) for shard, old in zip(shards, then, strict=True))


def test_a_reference_that_never_moves_keeps_no_weights_either() -> None:
    ours = reference(draw((3,)), alpha=None)
    assert ours.master == [] and not ours.follows_policy
    assert not any(ours.due(step) for step in range(10))


def test_updates_are_due_at_multiples_and_once() -> None:
    ours = reference(draw((3,)), alpha=0.5, interval=3)
    due = []
    for step in range(10):
        if ours.due(step):
            due.append(step)
            assert ours.since_update(step) == 3
            ours.update(step)
        assert not ours.due(step)
        assert ours.since_update(step) == step % 3
    assert due == ours.updated_at == [3, 6, 9]


def test_an_update_forgets_the_log_probabilities_of_the_reference_alone() -> None:
    ours = reference(draw((3,)), alpha=0.5)
    assert ours.logps.shape == (3, 2) and ours.logps.isnan().all() and ours.sft_logps.isnan().all()
    ours.logps.fill_(-1.0)
    assert ours.sft_logps.isnan().all()  # not the same memory
    ours.sft_logps.fill_(-2.0)
    ours.update(2)
    assert ours.logps.isnan().all()
    assert (ours.sft_logps == -2.0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_exchanged_and_restored_to_the_bit(dtype: torch.dtype) -> None:
    """Also when the body raises, and for a policy with fewer bits than its reference."""
    shards = [shard.to(dtype) for shard in draw((4, 3), (5,))]
    ours = reference(shards, alpha=0.3)
    for shard in shards:
        shard.mul_(-3.0).add_(1e-3)
    ours.update(2)
    policy, master = [[tensor.clone() for tensor in tensors] for tensors in (shards, ours.master)]
    addresses = [shard.data_ptr() for shard in shards]

    def unchanged() -> bool:
        kept = [*zip(shards, policy, strict=True), *zip(ours.master, master, strict=True)]
        return all(torch.equal(now, before) for now, before in kept)

    with ours.weights():
        for shard, old in zip(shards, master, strict=True):
            assert torch.equal(shard, old.to(dtype))
    assert unchanged()
    with pytest.raises(RuntimeError, match="out of memory"), ours.weights():
        raise RuntimeError("out of memory")
    assert unchanged()
    assert [shard.data_ptr() for shard in shards] == addresses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_read_may_be_a_copy_of_what_is_trained(dtype: torch.dtype) -> None:
    """ZeRO-3: passes read parameters that the optimizer's float32 values are written to, rounded."""
    values = draw((4, 3), (5,))
    read = [tensor.to(dtype, copy=True) for tensor in values]
    ours = Reference(2, 0.3, values, (3, 2), CPU, read=read)
    for policy, copied in zip(values, read, strict=True):
        policy.mul_(-3.0).add_(1e-3)
        copied.copy_(policy)
    ours.update(2)
    kept = [[tensor.clone() for tensor in tensors] for tensors in (values, read, ours.master)]
    with ours.weights():
        for copied, old in zip(read, kept[2], strict=True):
            assert torch.equal(copied, old.to(dtype))
        assert all(torch.equal(now, before) for now, before in zip(values, kept[0], strict=True))
    for tensors, before in zip((values, read, ours.master), kept, strict=True):
        assert all(torch.equal(now, old) for now, old in zip(tensors, before, strict=True))


def test_what_is_read_may_be_the_same_memory_by_another_name() -> None:
    """Two views of one parameter (`detach()` twice) are not one object, but writing to one changes the other."""
    parameter = torch.nn.Parameter(draw((4, 3))[0])
    ours = Reference(2, 0.3, [parameter.detach()], (3, 2), CPU, read=[parameter.detach()])
    with torch.no_grad():
        parameter.mul_(-3.0)
    policy = parameter.detach().clone()
    with ours.weights():
        assert not torch.equal(parameter, policy)
    assert torch.equal(parameter, policy)


# A whole model


def test_the_shards_of_a_model_are_its_memory_each_storage_once() -> None:
    """models.RANDOM ties its head to its embeddings."""
    model = models.load_model(models.RANDOM)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    shards = local_shards(model)
    addresses = [shard.data_ptr() for shard in shards]
    assert len(set(addresses)) == len(addresses)
    everything: list[Any] = [*model.parameters(), *model.buffers()]
    assert set(addresses) == {tensor.data_ptr() for tensor in everything if tensor.is_floating_point()}
    assert any(buffer.is_floating_point() for buffer in model.buffers())

    before = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    for shard in shards:
        assert not shard.requires_grad
        shard.add_(1.0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        torch.testing.assert_close(tensor.detach(), before[name] + 1.0)


def test_frozen_parameters_are_no_shards() -> None:
    model = models.load_model(models.RANDOM)
    whole = len(local_shards(model))
    model.get_input_embeddings().weight.requires_grad_(False)
    assert len(local_shards(model)) == whole - 1


def test_a_model_computes_with_the_weights_of_its_reference_and_then_with_its_own() -> None:
    """Tied weights included: a head that was not exchanged, or exchanged twice, would show in the logits."""
    model = models.load_model(models.RANDOM).eval()
    start = copy.deepcopy(model)
    ours = reference(local_shards(model), alpha=0.25)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(draw(tuple(parameter.shape), seed=number)[0], alpha=0.1)
    ours.update(2)

    mixed = copy.deepcopy(model)
    with torch.no_grad():
        for new, old in zip(mixed.parameters(), start.parameters(), strict=True):
            new.copy_(0.25 * new + 0.75 * old)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        policy = model(ids).logits
        with ours.weights():
            inside = model(ids).logits
        torch.testing.assert_close(inside, mixed(ids).logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(model(ids).logits, policy)
        assert not torch.allclose(inside, policy, rtol=1e-2)
        assert not torch.allclose(inside, start(ids).logits, rtol=1e-2)
    parameters = [[p.detach() for p in m.parameters()] for m in (model, mixed, start)]
    distances = ours.distances()
    assert distances["ref_from_sft"].item() == pytest.approx(apart(parameters[1], parameters[2]), rel=1e-5)
    assert distances["policy_from_ref"].item() == pytest.approx(apart(parameters[0], parameters[1]), rel=1e-5)


# Distances


def test_distance_by_hand() -> None:
    # 3-4-5 over two tensors, one of them without dimensions
    zero, other = [torch.zeros(1), torch.tensor(0.0)], [torch.tensor([3.0]), torch.tensor(4.0)]
    sketch = Sketch(zero)
    assert sketch.distance(sketch.sample(zero), sketch.sample(other)).item() == pytest.approx(5.0)


def test_small_tensors_are_taken_whole() -> None:
    first, second = draw((128, 128), (7,)), draw((128, 128), (7,), seed=1)
    sketch = Sketch(first)
    assert sketch.strides == [1, 1] and sketch.scales == [1.0, 1.0]
    distance = sketch.distance(sketch.sample(first), sketch.sample(second))
    assert distance.item() == pytest.approx(apart(first, second), rel=1e-6)


def test_a_large_tensor_is_estimated_within_a_hundredth() -> None:
    """1.2 million coordinates, 16,000 of them looked at: the squares' mean is good to sqrt(2 / 16,000) = 1.1 %, its
    root to half that. Columns of very different size would mislead a sample that saw only some of them."""
    scale = torch.linspace(0, 2, 384)
    first, second = draw((3200, 384), (50,)), draw((3200, 384), (50,), seed=1)
    first[0] *= scale
    second[0] *= scale
    sketch = Sketch(first)
    samples = [sketch.sample(tensors) for tensors in (first, second)]
    assert samples[0][0].numel() < 17_000
    assert sketch.distance(*samples).item() == pytest.approx(apart(first, second), rel=1e-2)


@pytest.mark.parametrize("shape", [(3000, 576), (4096, 256), (40_000, 6), (100_000,), (70, 30, 64)])
def test_the_stride_meets_every_column(shape: tuple[int, ...]) -> None:
    tensor = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    sketch = Sketch([tensor])
    assert math.gcd(sketch.strides[0], shape[-1]) == 1 < sketch.strides[0]
    (sample,) = sketch.sample([tensor])
    assert 8_000 < sample.numel() <= 2 * Sketch.SMALL
    assert len({int(x) % shape[-1] for x in sample.tolist()}) == min(shape[-1], sample.numel())
    assert sketch.scales[0] * sample.numel() == pytest.approx(tensor.numel())


def test_a_sample_is_a_copy_in_float32() -> None:
    tensor = torch.ones(4, dtype=torch.bfloat16)
    (sample,) = Sketch([tensor]).sample([tensor])
    tensor.zero_()
    assert sample.dtype == torch.float32 and sample.tolist() == [1.0] * 4


def test_processes_add_their_squares() -> None:
    """Here 3, and another process adds 4^2: 5. An empty shard adds nothing."""
    first = [torch.zeros(1), torch.zeros(0)]
    sketch = Sketch(first, reduce=lambda total: total + 16.0)
    assert sketch.distance(first, [torch.tensor([3.0]), torch.zeros(0)]).item() == pytest.approx(5.0)


# Checkpoints


def moved(alpha: float | None, shapes: list[tuple[int, ...]], updates: int) -> tuple[Reference, list[torch.Tensor]]:
    """A reference some updates into training, and its policy."""
    shards = draw(*shapes)
    ours = reference(shards, alpha)
    ours.logps.copy_(draw((3, 2), seed=5)[0])
    ours.sft_logps.copy_(draw((3, 2), seed=6)[0])
    for number in range(1, updates + 1):
        for shard in shards:
            shard.mul_(1.5)
        ours.update(2 * number)
    ours.logps[0] = -3.0
    return ours, shards


@pytest.mark.parametrize("updates", [0, 1, 3])
@pytest.mark.parametrize("alpha", [0.3, 1.0, None])
def test_a_state_comes_back_from_a_file(alpha: float | None, updates: int, tmp_path: Path) -> None:
    """Before the first update too, where reference and SFT model are the same numbers."""
    shapes = [(4, 3), (200, 100)]  # the second one is sampled
    ours, shards = moved(alpha, shapes, 0 if alpha is None else updates)
    save_file(ours.state(), tmp_path / "reference.safetensors")

    policy = [shard.clone() for shard in shards]  # the policy has been loaded by then; only that is known
    other = reference(policy, alpha)
    other.load(load_file(tmp_path / "reference.safetensors"))

    def same() -> None:
        assert other.updated_at == ours.updated_at
        for name, tensor in ours.state().items():
            torch.testing.assert_close(other.state()[name], tensor, rtol=0, atol=0, equal_nan=True, msg=name)
        for name, distance in ours.distances().items():
            assert torch.equal(other.distances()[name], distance)

    same()
    if alpha is not None:  # and both go on alike
        for reference_, weights in ((ours, shards), (other, policy)):
            for shard in weights:
                shard.sub_(0.25)
            reference_.update(100)
        same()


def test_a_state_of_another_rule_model_or_data_set_is_refused() -> None:
    state = moved(0.3, [(4, 3), (5,)], 1)[0].state()
    others = [
        reference(draw((4, 3), (5,)), alpha=1.0),  # keeps no weights
        reference(draw((4, 3), (6,)), alpha=0.3),
        reference(draw((4, 3)), alpha=0.3),
        reference(draw((4, 3), (5,)), alpha=0.3, rows=4),
    ]
    for other in others:
        before = {name: tensor.clone() for name, tensor in other.state().items()}
        with pytest.raises(ValueError, match="another rule, model or data set"):
            other.load(state)
        for name, tensor in other.state().items():
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match="another rule"):
        reference(draw((4, 3), (5,)), 0.3).load({name: t for name, t in state.items() if name != "master.1"})
    reference(draw((4, 3), (5,)), alpha=0.3).load(state)
