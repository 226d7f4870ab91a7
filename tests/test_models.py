from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recsys.config import BERT4RecConfig
from recsys.losses import full_cross_entropy
from recsys.models.bert4rec import BERT4Rec, build_bert4rec
from recsys.models.protocol import Encoder
from recsys.sequences import Ragged

N_ITEMS = 20


def encoder(seed: int = 0) -> BERT4Rec:
    torch.manual_seed(seed)
    model = build_bert4rec(BERT4RecConfig(dim=16, layers=2, heads=4, max_length=9), N_ITEMS).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(10)
        model.item_bias.normal_()
    return model


def reference_hidden(model: BERT4Rec, items: list[int]) -> torch.Tensor:
    """The same weights through PyTorch's own post-LN encoder layers, one unpadded sequence at a time."""
    length = len(items)
    positions = model.position_embedding.weight[:length].flip(0)
    hidden: torch.Tensor = model.embedding_norm(model.item_embedding.weight[items] + positions)[None]
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            16, 4, dim_feedforward=64, dropout=0.0, activation="gelu", batch_first=True, norm_first=False
        ).eval()
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": block.get_parameter("project_qkv.weight"),
                "self_attn.in_proj_bias": block.get_parameter("project_qkv.bias"),
                "self_attn.out_proj.weight": block.get_parameter("project_out.weight"),
                "self_attn.out_proj.bias": block.get_parameter("project_out.bias"),
                "linear1.weight": block.get_parameter("widen.weight"),
                "linear1.bias": block.get_parameter("widen.bias"),
                "linear2.weight": block.get_parameter("narrow.weight"),
                "linear2.bias": block.get_parameter("narrow.bias"),
                "norm1.weight": block.get_parameter("attention_norm.weight"),
                "norm1.bias": block.get_parameter("attention_norm.bias"),
                "norm2.weight": block.get_parameter("feed_forward_norm.weight"),
                "norm2.bias": block.get_parameter("feed_forward_norm.bias"),
            }
        )
        hidden = layer(hidden)
    return hidden[0]


def test_hidden_states_equal_an_independent_encoder_whatever_the_padding() -> None:
    model = encoder()
    rows = [[3, 7, 1, 21, 4], [5], [9, 2, 2, 8, 11, 13, 20, 1, 6]]
    with torch.inference_mode():
        batch = torch.from_numpy(Ragged.of(rows).padded().astype(np.int64))
        hidden = model.hidden(batch)
        for row, states in zip(rows, hidden, strict=True):
            torch.testing.assert_close(
                states[-len(row) :], reference_hidden(model, row), rtol=1e-5, atol=1e-5
            )


def test_scores_are_the_papers_output_layer_at_an_appended_mask() -> None:
    model = encoder()
    with torch.inference_mode():
        state = reference_hidden(model, [3, 7, 1, N_ITEMS + 1])[-1]
        state = model.output_norm(nn.functional.gelu(model.output(state)))
        logits = state @ model.item_embedding.weight[1 : N_ITEMS + 1].T + model.item_bias
        vectors = model.encode(torch.tensor([[0, 3, 7, 1]]))
        assert vectors.shape == (1, 17)
        torch.testing.assert_close((vectors @ model.item_table().T)[0], logits, rtol=1e-5, atol=1e-5)


def test_weights_start_as_a_truncated_normal_and_pad_as_zero() -> None:
    torch.manual_seed(0)
    model = build_bert4rec(BERT4RecConfig(), 500)
    weight = model.item_embedding.weight.detach()
    assert weight.abs().max() <= 0.04
    assert weight[1:].std() == pytest.approx(0.02 * 0.8796, rel=0.02)  # deviation of a normal cut at 2
    assert weight[0].abs().max() == 0
    assert model.item_bias.abs().max() == 0


def test_the_loss_is_the_mean_negative_log_likelihood() -> None:
    generator = torch.Generator().manual_seed(0)
    states, items, bias = (torch.randn(shape, generator=generator) for shape in ((5, 4), (7, 4), (7,)))
    targets = torch.tensor([1, 7, 3, 3, 2])
    logits = (states @ items.T + bias).double().numpy()
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(likelihood[np.arange(5), targets.numpy() - 1]).mean()
    assert full_cross_entropy(states, items, bias, targets).item() == pytest.approx(expected, rel=1e-5)


def test_the_encoder_answers_the_protocol() -> None:
    model = encoder()
    assert isinstance(model, Encoder)
    assert model.max_history == 8
