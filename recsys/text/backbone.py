"""Pre-trained weights to start a Recformer from: those of a bundle, or of a checkpoint of Hugging Face's.

A BERT, RoBERTa or Longformer checkpoint has the parts of our encoder under other names. As Longformer's
authors did, the places that it lacks repeat the ones it has, and the projections of <s> that only a
Longformer has begin as the others of their layer (Beltagy et al. 2020, arXiv 2004.05150). Token types begin
as the checkpoint's first type, and places of items are new.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from recsys import schema
from recsys.bundle import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from recsys.config import RecformerConfig, load_config
from recsys.errors import InputError
from recsys.models.text_encoder import TextEncoder
from recsys.text.tokens import ItemTokenizer, text_extra

SIZES = {
    "dim": "hidden_size",
    "inner": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "norm_eps": "layer_norm_eps",
}
"""Our name of a size -> the checkpoint's."""
DEFAULTS = {"layer_norm_eps": 1e-12, "pad_token_id": 1}
"""What a checkpoint means that does not say it; the second is not BERT's, which needs none."""
WINDOW = 512
"""Tokens that see each other where a backbone reads one item: all of them."""
FAMILIES = ("bert", "roberta", "xlm-roberta", "longformer")
_CONFIG, _SAFE, _PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
_SHARDED = (f"{_SAFE}.index.json", f"{_PICKLED}.index.json")
_VOCABULARIES = ((TOKENIZER_FILE,), ("vocab.txt",), ("vocab.json", "merges.txt"))
_READ = (
    _CONFIG,
    _SAFE,
    _PICKLED,
    *_SHARDED,
    "tokenizer_config.json",
    *(file for each in _VOCABULARIES for file in each),
)
_PARTS = {
    "attention.output.dense": "project_out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "feed_forward_norm",
}


@dataclass(frozen=True)
class Backbone:
    """Weights under the names of `TextEncoder`, and the tokenizer that they belong to."""

    weights: dict[str, torch.Tensor]
    tokenizer: ItemTokenizer

    @classmethod
    def read(cls, name: str) -> Backbone:
        """Read a folder or a checkpoint of the hub.

        Raises:
            InputError: it is of another family, a file or a tensor is missing or damaged, or tokenizer and
                weights do not fit.
        """
        folder = backbone_folder(name)
        if _is_bundle(folder):
            state = _tensors(folder / WEIGHTS_FILE)
            weights = {
                key.removeprefix("encoder."): tensor
                for key, tensor in state.items()
                if key.startswith("encoder.")
            }
        else:
            settings = _settings(folder)
            file = folder / (_SAFE if (folder / _SAFE).is_file() else _PICKLED)
            state = _tensors(file)
            with _reading(file):
                weights = _renamed(state, settings)
        with _reading(folder):
            tokenizer = ItemTokenizer(_tokenizer(folder))
        rows = len(weights["token_embedding.weight"])
        if rows < len(tokenizer):
            raise InputError(
                f"the tokenizer of {folder} has {len(tokenizer):,} tokens, but its weights have vectors of "
                f"{rows:,}: they are of different models; copy the checkpoint anew"
            )
        return cls(weights, tokenizer)

    def put_into(self, encoder: TextEncoder) -> None:
        """Start an encoder of the same sizes from these weights; what they lack stays as it is.

        Raises:
            InputError: they are of other sizes.
        """
        state = encoder.state_dict()
        for name, tensor in self.weights.items():
            own = state[name]
            if own.ndim != tensor.ndim or own.shape[1:] != tensor.shape[1:]:
                raise InputError(
                    f"tensor {name} of the backbone is {tuple(tensor.shape)}, but its configuration says "
                    f"{tuple(own.shape)}: they are of different models; copy the checkpoint anew"
                )
            if name == "place_embedding.weight":
                tensor = tensor.repeat(-(-len(own) // len(tensor)), 1)
            rows = min(len(own), len(tensor))
            own[:rows] = tensor[:rows]


def resolved(config: RecformerConfig) -> RecformerConfig:
    """The configuration with the sizes of its backbone, where it has one.

    Raises:
        InputError: the backbone cannot be read, or a size that was set is another.
    """
    if config.backbone is None:
        return config
    sizes = _sizes(backbone_folder(config.backbone))
    for name in config.model_fields_set & sizes.keys():
        if getattr(config, name) != sizes[name]:
            raise InputError(
                f"model.{name} is {getattr(config, name)}, but backbone {config.backbone} has {sizes[name]}; "
                f"leave model.{name} out"
            )
    return RecformerConfig.model_validate({**config.model_dump(), **sizes})


def encoder_of(name: str, backbone: Backbone) -> TextEncoder:
    """The encoder of a backbone, of its own sizes and with its weights, that reads items as it did there."""
    folder, places = backbone_folder(name), backbone.weights.get("item_embedding.weight")
    encoder = TextEncoder(
        tokens=len(backbone.weights["token_embedding.weight"]),
        max_tokens=len(backbone.weights["place_embedding.weight"]),
        max_items=1 if places is None else len(places) - 1,
        window=WINDOW if places is None else _recformer(folder).window,
        dropout=0.0,
        **_sizes(folder),
    )
    backbone.put_into(encoder)
    if places is None:  # a sentence is one item, of which a checkpoint knows no place
        with torch.no_grad():
            encoder.item_embedding.weight.zero_()
    return encoder


def _sizes(folder: Path) -> dict[str, Any]:
    """Sizes of a backbone's encoder, under our names."""
    if _is_bundle(folder):
        model = _recformer(folder)
        return {name: getattr(model, name) for name in SIZES}
    settings = _settings(folder)
    return {ours: settings[theirs] for ours, theirs in SIZES.items()}


def _recformer(folder: Path) -> RecformerConfig:
    """The model's section of a bundle's configuration."""
    model = load_config(folder / CONFIG_FILE).model
    assert isinstance(model, RecformerConfig)
    return model


def backbone_folder(name: str) -> Path:
    """The folder of a backbone; a hub id is downloaded, or found where it was downloaded before.

    Raises:
        InputError: there is no such folder, and the hub does not answer or has none.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.count("/") > 1 or folder.is_absolute() or name.startswith("."):
        raise InputError(f"there is no backbone folder {name}; give a bundle, a checkpoint, or a hub id")
    with text_extra():
        from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name, allow_patterns=list(_READ)))
    except Exception as error:  # of the network, of the hub, of the id: no common base
        raise InputError(
            f"backbone {name} is no folder, and could not be had from the hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); give a folder that holds the checkpoint"
        ) from error


def backbone_digest(name: str) -> str:
    """SHA-256 of a backbone's weights, tokenizer and settings, wherever it stands.

    Raises:
        InputError: as `backbone_folder`.
    """
    folder = backbone_folder(name)
    files = [folder / file for file in (WEIGHTS_FILE, *_READ) if (folder / file).is_file()]
    return hashlib.sha256("".join(map(schema.file_hash, files)).encode()).hexdigest()


def _is_bundle(folder: Path) -> bool:
    if not (folder / schema.MANIFEST_FILE).is_file():
        return False
    with _reading(folder / schema.MANIFEST_FILE):
        manifest = json.loads((folder / schema.MANIFEST_FILE).read_text(encoding="utf-8"))
    if manifest.get("model") != "recformer":
        raise InputError(
            f"backbone {folder} is of model `{manifest.get('model')}`; expected a recformer bundle"
        )
    return True


def _settings(folder: Path) -> dict[str, Any]:
    """The checkpoint's configuration.

    Raises:
        InputError: a file is missing or damaged, or it is of a family that this encoder is not of.
    """
    missing = [
        " or ".join(group)
        for group in ((_CONFIG,), (_SAFE, _PICKLED), [" + ".join(each) for each in _VOCABULARIES])
        if not any(all((folder / part).is_file() for part in name.split(" + ")) for name in group)
    ]
    shards = [name for name in _SHARDED if (folder / name).is_file()]
    if shards and f"{_SAFE} or {_PICKLED}" in missing:
        raise InputError(
            f"backbone {folder} has its weights in several files ({shards[0]}), which are not read; save "
            "them in one (save_pretrained with a larger max_shard_size)"
        )
    if missing:
        raise InputError(f"backbone {folder} lacks {', '.join(missing)}; copy the whole checkpoint")
    with _reading(folder / _CONFIG):
        settings: dict[str, Any] = DEFAULTS | json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        for name in (name for name in SIZES.values() if name not in settings):
            raise KeyError(name)
    family, activation = settings.get("model_type"), settings.get("hidden_act", "gelu")
    absolute = settings.get("position_embedding_type", "absolute") == "absolute"
    if family not in FAMILIES or activation != "gelu" or not absolute:
        raise InputError(
            f"backbone {folder} is of family `{family}` with activation `{activation}`"
            f"{'' if absolute else ' and relative positions'}; expected one of {', '.join(FAMILIES)} with "
            "gelu and absolute positions"
        )
    return settings


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Around the reading of a file: who gives a damaged one is told which, and what it lacks.

    Raises:
        InputError: it cannot be read, or it lacks a part.
    """
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{file} lacks `{error.args[0]}`; copy the whole checkpoint anew") from error
    except Exception as error:  # of JSON, safetensors, pickle, tokenizers: no common base
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file} cannot be read ({type(error).__name__}: {reason}); copy the whole checkpoint anew"
        ) from error


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    with _reading(file):
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state: dict[str, torch.Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return state


def _renamed(state: dict[str, torch.Tensor], settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors under the names of `TextEncoder`."""
    found = {_bare(name): tensor.float() for name, tensor in state.items()}
    embeddings = "embeddings.{}_embeddings.weight"
    places = found[embeddings.format("position")]
    if settings["model_type"] != "bert":
        places = places[settings["pad_token_id"] + 1 :]  # RoBERTa counts from behind the padding's
    types = found[embeddings.format("token_type")][:1]
    weights = {
        "token_embedding.weight": found[embeddings.format("word")],
        "place_embedding.weight": places,
        "type_embedding.weight": types.repeat(4, 1),
        "embedding_norm.weight": found["embeddings.LayerNorm.weight"],
        "embedding_norm.bias": found["embeddings.LayerNorm.bias"],
    }
    for layer, kind in product(range(settings["num_hidden_layers"]), ("weight", "bias")):
        for theirs, ours in _PARTS.items():
            weights[f"blocks.{layer}.{ours}.{kind}"] = found[f"encoder.layer.{layer}.{theirs}.{kind}"]
        own = f"encoder.layer.{layer}.attention.self"
        near = [found[f"{own}.{part}.{kind}"] for part in ("query", "key", "value")]
        weights[f"blocks.{layer}.project_qkv.{kind}"] = torch.cat(near)
        for part, begin in zip(("query", "key", "value"), near, strict=True):
            if (part, kind) != ("key", "bias"):
                start = found.get(f"{own}.{part}_global.{kind}", begin)
                weights[f"blocks.{layer}.start_{part}.{kind}"] = start
    return weights


def _bare(name: str) -> str:
    """The name without the model's own prefix, and with the names that LayerNorm has now."""
    bare = re.sub(r"^.*?(?=embeddings\.|encoder\.layer\.)", "", name, count=1)
    return bare.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _tokenizer(folder: Path) -> str:
    """Content of a tokenizer.json, made from the older files where there is none."""
    if (folder / TOKENIZER_FILE).is_file():
        return (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
    with text_extra():
        from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer
    if (folder / "vocab.txt").is_file():
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        lower = settings.get("do_lower_case", True)
        return str(BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=lower).to_str())
    return str(ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).to_str())
