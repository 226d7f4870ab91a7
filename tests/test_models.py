from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recsys.config import BERT4RecConfig, SASRecConfig
from recsys.models.build import build_bert4rec, build_sasrec
from recsys.models.dropout import dropout
from recsys.models.protocol import Encoder
from recsys.models.transformer import Transformer
from recsys.objectives import Examples
from recsys.sequences import Ragged
from recsys.steps import Step

N_ITEMS = 20
SMALL: dict[str, Any] = {"dim": 16, "layers": 2, "heads": 4, "max_length": 9}
CLOZE: dict[str, Any] = {"next_item_prob": 0.0, "read": "mask"}
BERT4REC = BERT4RecConfig(**SMALL, **CLOZE, norm="post", feed_forward="gelu", scoring="dot")
SASREC = SASRecConfig(**SMALL, norm="pre", feed_forward="relu", scoring="dot")


def encoder(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = build_bert4rec(BERT4REC, N_ITEMS).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(10)
        model.item_bias.normal_()
    return model


def torch_layer(block: nn.Module, *, inner: int, activation: str, norm_first: bool) -> nn.Module:
    """PyTorch's own encoder layer with the weights of a block."""
    layer = nn.TransformerEncoderLayer(
        16, 4, inner, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    names = {
        "self_attn.in_proj_": "project_qkv.",
        "self_attn.out_proj.": "project_out.",
        "linear1.": "widen.",
        "linear2.": "narrow.",
        "norm1.": "attention_norm.",
        "norm2.": "feed_forward_norm.",
    }
    layer.load_state_dict(
        {
            theirs + kind: block.get_parameter(ours + kind)
            for theirs, ours in names.items()
            for kind in ("weight", "bias")
        }
    )
    return layer.eval()


def reference_hidden(model: Transformer, items: list[int]) -> torch.Tensor:
    """The same weights through PyTorch's own post-LN encoder layers, one unpadded sequence at a time."""
    positions = model.position_embedding.weight[: len(items)].flip(0)
    hidden: torch.Tensor = model.embedding_norm(model.item_embedding.weight[items] + positions)[None]
    for block in model.blocks:
        hidden = torch_layer(block, inner=64, activation="gelu", norm_first=False)(hidden)
    return hidden[0]


def transformed(model: Transformer, hidden: torch.Tensor) -> torch.Tensor:
    states: torch.Tensor = model.output_norm(nn.functional.gelu(model.output(hidden)))
    return states


def packed_states(model: Transformer, rows: list[list[int]], asked: list[np.ndarray]) -> torch.Tensor:
    ragged = Ragged.of(rows)
    examples = Examples.alike(ragged, np.concatenate(asked), ragged.values, causal=model.causal)
    step = Step.of(examples, np.empty(0, np.int64), 0)
    return model.states(*step[:6])[: len(step.targets_T)]


ROWS = [[3, 7, 1, 21, 4], [5], [9, 2, 2, 8, 11, 13, 20, 1], [6, 4], [4, 4, 4]]


def test_packed_states_equal_an_independent_encoder_of_each_sequence_alone() -> None:
    model = encoder()
    asked = [np.arange(len(row)) % 2 == 0 for row in ROWS]
    with torch.inference_mode():
        expected = torch.cat(
            [
                transformed(model, reference_hidden(model, row)[mask])
                for row, mask in zip(ROWS, asked, strict=True)
            ]
        )
        torch.testing.assert_close(packed_states(model, ROWS, asked), expected, rtol=1e-5, atol=1e-5)


def test_causal_states_read_nothing_that_comes_later_and_equal_the_encoded_history() -> None:
    torch.manual_seed(0)
    model = build_sasrec(SASREC, N_ITEMS).eval()
    with torch.inference_mode():
        asked = [np.arange(len(row)) == len(row) - 1 for row in ROWS]
        alone = torch.cat([model.encode(torch.tensor([row])) for row in ROWS])
        padded = model.encode(torch.from_numpy(Ragged.of(ROWS).padded(9).astype(np.int64)))
        torch.testing.assert_close(packed_states(model, ROWS, asked), alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)
        everywhere = [np.ones(len(row), dtype=bool) for row in ROWS]
        states = packed_states(model, ROWS, everywhere)
        changed = packed_states(model, [[*row[:-1], 15] for row in ROWS], everywhere)
        last = np.concatenate(asked)
        torch.testing.assert_close(states[~last], changed[~last], rtol=0, atol=0)
        assert not torch.isclose(states[last], changed[last]).all()


def test_one_batch_reads_some_sequences_both_ways_and_others_causally() -> None:
    """A next-item sample sees each place as if the history ended there, without the MASK behind it."""
    model = encoder()
    both = [Ragged.of([row]) for row in ([3, 7, 21, 4], [5, 6, 2])]
    asked = np.array([False, False, True, False]), np.array([True, True, True])
    parts = [
        Examples.alike(both[0], asked[0], both[0].values, causal=False),
        Examples.alike(both[1], asked[1], both[1].values, causal=True, ahead=1),
    ]
    step = Step.of(Examples.joined(parts), np.empty(0, np.int64), 0)
    with torch.inference_mode():
        states = model.states(*step[:6])[:4]
        alone = [packed_states(model, [[3, 7, 21, 4]], [asked[0]])[0]]
        alone += [causal_reference(model, [5, 6, 2][:length], at=3 - length + 1) for length in (1, 2, 3)]
        torch.testing.assert_close(states, torch.stack(alone), rtol=1e-5, atol=1e-5)


def causal_reference(model: Transformer, items: list[int], *, at: int) -> torch.Tensor:
    """State of the last item, the first of positions `at`, by PyTorch's own post-LN layers."""
    positions = model.position_embedding.weight[at : at + len(items)].flip(0)
    hidden = model.embedding_norm(model.item_embedding.weight[items] + positions)[None]
    mask = nn.Transformer.generate_square_subsequent_mask(len(items))
    for block in model.blocks:
        hidden = torch_layer(block, inner=64, activation="gelu", norm_first=False)(hidden, src_mask=mask)
    return transformed(model, hidden[0, -1])


def test_reading_at_the_last_item_leaves_the_place_of_the_mask_empty() -> None:
    torch.manual_seed(0)
    settings = {"next_item_prob": 0.5, "read": "last_item"}
    model = build_bert4rec(BERT4REC.model_copy(update=settings), N_ITEMS).eval()
    assert model.max_history == 8
    with torch.inference_mode():
        expected = causal_reference(model, [3, 7, 1], at=1)
        vectors = model.encode(torch.tensor([[0, 0, 3, 7, 1]]))
        torch.testing.assert_close(vectors[0, :-1], expected, rtol=1e-5, atol=1e-5)


def test_sasrec_equals_an_independent_pre_norm_encoder() -> None:
    torch.manual_seed(0)
    model = build_sasrec(SASREC, N_ITEMS).eval()
    row = [3, 7, 1, 20]
    with torch.inference_mode():
        positions = model.position_embedding.weight[:4].flip(0)
        hidden = (model.item_embedding.weight[row] * 4 + positions)[None]
        for block in model.blocks:
            layer = torch_layer(block, inner=16, activation="relu", norm_first=True)
            hidden = layer(hidden, src_mask=nn.Transformer.generate_square_subsequent_mask(4))
        expected = model.output_norm(hidden[:, -1])
        torch.testing.assert_close(model.encode(torch.tensor([row])), expected, rtol=1e-5, atol=1e-5)


def test_cosine_scores_of_a_pre_norm_encoder() -> None:
    torch.manual_seed(0)
    config = BERT4RecConfig(
        **SMALL, **CLOZE, norm="pre", feed_forward="gelu", scoring="cosine", temperature=0.1
    )
    model = build_bert4rec(config, N_ITEMS).eval()
    row = [3, 7, 1, N_ITEMS + 1]
    with torch.inference_mode():
        hidden = (model.item_embedding.weight[row] * 4 + model.position_embedding.weight[:4].flip(0))[None]
        for block in model.blocks:
            hidden = torch_layer(block, inner=64, activation="gelu", norm_first=True)(hidden)
        items = model.item_embedding.weight[1 : N_ITEMS + 1]
        expected = nn.functional.cosine_similarity(model.output_norm(hidden[:, -1]), items) / 0.1
        scores = (model.encode(torch.tensor([row[:-1]])) @ model.item_table().T)[0]
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_scores_are_the_papers_output_layer_at_an_appended_mask() -> None:
    model = encoder()
    with torch.inference_mode():
        state = reference_hidden(model, [3, 7, 1, N_ITEMS + 1])[-1]
        logits = transformed(model, state) @ model.item_embedding.weight[1 : N_ITEMS + 1].T + model.item_bias
        vectors = model.encode(torch.tensor([[0, 3, 7, 1]]))
        assert vectors.shape == (1, 17)
        torch.testing.assert_close((vectors @ model.item_table().T)[0], logits, rtol=1e-5, atol=1e-5)


def test_weights_start_as_a_truncated_normal_and_pad_as_zero() -> None:
    torch.manual_seed(0)
    model = build_bert4rec(BERT4RecConfig(scoring="dot"), 500)
    weight = model.item_embedding.weight.detach()
    assert weight.abs().max() <= 0.04
    assert weight[1:].std() == pytest.approx(0.02 * 0.8796, rel=0.02)  # deviation of a normal cut at 2
    assert weight[0].abs().max() == 0
    assert model.item_bias.abs().max() == 0


def test_the_encoder_answers_the_protocol() -> None:
    model = encoder()
    assert isinstance(model, Encoder)
    assert model.max_history == 8


@pytest.mark.parametrize("build", [build_bert4rec, build_sasrec])
def test_attention_written_out_equals_the_fused_kernel(build: Callable[..., Transformer]) -> None:
    """Training in bfloat16 or with dropout of attention weights computes attention in another way."""
    torch.manual_seed(0)
    config = BERT4REC if build is build_bert4rec else SASREC
    model = build(config.model_copy(update={"dropout": 0.0}), N_ITEMS)
    asked = [np.arange(len(row)) % 2 == 0 for row in ROWS]
    with torch.inference_mode():
        fused = packed_states(model.train(), ROWS, asked)
        for block in model.blocks:
            vars(block)["attention_dropout"] = 1e-6  # too small to drop anything
        torch.testing.assert_close(packed_states(model, ROWS, asked), fused, rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = packed_states(model, ROWS, asked)
        assert 0 < (rounded - fused).norm() / fused.norm() < 0.02


@pytest.mark.parametrize("probability", [0.003, 0.9999])
def test_dropout_at_the_edges_of_a_byte(probability: float) -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1_000_000), probability)
    assert (dropped == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    values = torch.ones(1001, 1001)
    dropped = dropout(values, 0.25)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.003)
    assert torch.unique(dropped).tolist() == pytest.approx([0, 4 / 3])
    columns = (dropped == 0).reshape(-1)[: 8 * 125_000].reshape(-1, 8).float().mean(0)
    assert columns.tolist() == pytest.approx(
        [0.25] * 8, abs=0.007
    )  # every byte of a random word is used alike
    assert dropout(values, 0.0) is values


def test_dropout_passes_the_gradient_of_what_it_keeps() -> None:
    torch.manual_seed(0)
    values = torch.randn(50, requires_grad=True)
    dropped = dropout(values, 0.5)
    torch.autograd.backward(dropped.sum())
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.where(dropped == 0, 0.0, 2.0))
