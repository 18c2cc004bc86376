"""Chunked log-probabilities against the plain computation."""

import pytest
import torch

from tr_align import models
from tr_align.align import logps
from tr_align.align.logps import completion_logps, plain_head, token_logps


def test_token_logps_by_hand() -> None:
    # Logits (0, log 3): probabilities 1/4 and 3/4.
    hidden = torch.tensor([[1.0], [1.0]])
    weight = torch.tensor([[0.0], [torch.tensor(3.0).log()]])
    values = token_logps(hidden, weight, torch.tensor([0, 1]))
    assert values.exp().tolist() == pytest.approx([0.25, 0.75])


def test_values_and_gradients_equal_autograd_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logps, "CHUNK", 3)  # 7 rows: two whole chunks and a part
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(11, (7,))
    factors = torch.randn(7)

    plain = (hidden @ weight.T).log_softmax(1).gather(1, labels[:, None]).squeeze(1)
    expected = torch.autograd.grad((plain * factors).sum(), [hidden, weight])
    ours = token_logps(hidden, weight, labels)
    got = torch.autograd.grad((ours * factors).sum(), [hidden, weight])

    torch.testing.assert_close(ours, plain.float(), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_completion_logps_count_reply_tokens_only_and_ignore_padding() -> None:
    model = models.load_model(models.RANDOM)
    ids = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    completion = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1, 1]])
    attention = torch.tensor([[1] * 6 + [0] * 3, [1] * 9])

    got = completion_logps(model, ids, attention, completion)

    # Each sequence alone, without padding, from the model's full logits.
    for row, (start, end) in enumerate([(3, 6), (2, 9)]):
        alone = ids[row : row + 1, :end]
        table = model(alone).logits[0].log_softmax(-1)
        expected = sum(table[t - 1, alone[0, t]].item() for t in range(start, end))
        assert got[row].item() == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_tied_embeddings_as_through_plain_logits() -> None:
    model = models.load_model(models.RANDOM)
    ids = torch.randint(0, 200, (1, 6), generator=torch.Generator().manual_seed(2))
    completion = torch.tensor([[0, 0, 1, 1, 1, 1]])
    attention = torch.ones_like(ids)

    table = model(ids).logits[0, :-1].log_softmax(-1)
    table.gather(1, ids[0, 1:, None]).squeeze(1)[1:].sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    completion_logps(model, ids, attention, completion).sum().backward()

    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_plain_head_refuses_a_bias() -> None:
    model = models.load_model(models.RANDOM)
    assert plain_head(model)
    model.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    assert not plain_head(model)
