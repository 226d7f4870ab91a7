"""Ablations: what is measured, against what, and how the README shows it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_prep.sample import write_sample
from recsys.bundle import Bundle
from recsys.compare import compare_bundles
from recsys.config import load_config
from tests.benchmarks import results
from tests.benchmarks.ablation import main, read_variants
from tests.benchmarks.measure import settings_hash
from tests.benchmarks.readme import rendered
from tests.mlflow_world import migrated_database

ROOT = Path(__file__).parent.parent
VARIANTS = sorted((ROOT / "tests/benchmarks").glob("ablation-*.yaml"))


@pytest.mark.parametrize("file", VARIANTS, ids=lambda file: file.stem)
def test_every_ready_variant_changes_its_recipe(file: Path) -> None:
    recipe = ROOT / f"configs/{file.stem.removeprefix('ablation-')}.yaml"
    variants = read_variants(file)
    hashes = {settings_hash(load_config(recipe, changes)) for changes in variants.values()}
    assert len(hashes | {settings_hash(load_config(recipe))}) == len(variants) + 1


def arguments(tmp_path: Path, variants: str, *more: str) -> list[str]:
    file = tmp_path / "variants.yaml"
    file.write_text(variants)
    options = {"config": ROOT / "configs/sample.yaml", "variants": file, "work": tmp_path / "work"}
    options["results"] = tmp_path / "results.jsonl"
    overrides = [f"data.path={tmp_path / 'sample'}", f"prepared={tmp_path / 'prepared'}", "model.dim=8"]
    overrides += ["model.layers=1", "training.epochs=1", "training.validate_every=1", "training.threads=1"]
    return [word for name, each in options.items() for word in (f"--{name}", str(each))] + [*more, *overrides]


def test_variants_are_measured_once_against_the_recipe_on_the_same_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sample(tmp_path / "sample", users=80, playlists=0)
    (tmp_path / "work/sample").mkdir(parents=True)
    shutil.copy(migrated_database(), tmp_path / "work/sample/mlflow.db")
    main(arguments(tmp_path, "faster: [training.learning_rate=0.02]"))
    recipe, variant = results.read(tmp_path / "results.jsonl")
    assert (recipe["model"], variant["model"]) == ("BERT4Rec, as configured", "BERT4Rec, faster")
    assert recipe["difference"]["ndcg@10"]["mean"] == 0
    assert variant["ablation"]["recipe"] == recipe["ablation"]["recipe"] == recipe["settings"][:12]
    assert variant["ablation"]["changes"] == ["training.learning_rate=0.02"]
    bundles = [
        Bundle.load(next((tmp_path / "work/sample").glob(f"bert4rec-{row['settings'][:12]}-*")) / "bundle")
        for row in (recipe, variant)
    ]
    expected = compare_bundles(*bundles).differences["ndcg@10"]
    assert variant["difference"]["ndcg@10"] == expected.to_json()
    gained = variant["metrics"]["ndcg@10"]["mean"] - recipe["metrics"]["ndcg@10"]["mean"]
    assert expected.mean == pytest.approx(gained) and expected.low < expected.high

    capsys.readouterr()
    main(arguments(tmp_path, "faster: [training.learning_rate=0.02]"))
    assert (capsys.readouterr().out, len(results.read(tmp_path / "results.jsonl"))) == ("", 2)
    made = rendered("<!-- ablation sample BERT4Rec -->\n<!-- end -->\n", tmp_path / "results.jsonl")
    assert f"| {expected.mean:+.4f}" in made.replace("*", "")


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("same: [model.mask_prob=0.5]", "variant `same` of .* changes neither model nor training"),
        ("- model.dim=4", r"is no list of variants; expected lines such as `without last-item"),
        ("a: model.dim=4", "is no list of variants"),
        ("a: [", "is not a readable YAML file"),
        ("a: [model.dmi=4]", "unknown key `dmi` in `model`"),
    ],
)
def test_bad_variants_are_refused_before_anything_is_trained(
    tmp_path: Path, variants: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments(tmp_path, variants))
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "prepared").exists()


def test_a_model_that_counts_has_no_ingredients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bare = [word for word in arguments(tmp_path, "a: [model.order=2]") if not word.startswith("model.")]
        main([*bare, "model=markov"])
    assert "has model `markov`, which has no ingredients; expected one of bert4rec" in capsys.readouterr().err


def row(model: str, settings: str, ndcg: float, seed: int = 0, **more: Any) -> results.Row:  # noqa: ANN401
    metrics = {name: {"mean": ndcg, "low": ndcg / 2, "high": ndcg * 2} for name in ("hr@10", "ndcg@10")}
    rule = {"split": "test", "protocol": "full", "seen_items": "removed"}
    return results.new_row(
        data="d",
        digest="abc",
        library="recsys",
        model=model,
        settings=settings,
        seed=seed,
        **rule,
        metrics=metrics,
        seconds=1.0,
        versions={},
        best_epoch=2,
        **more,
    )


def changed(
    name: str,
    recipe: str,
    ndcg: float,
    difference: tuple[float, float, float] = (0.0, 0.0, 0.0),
    seed: int = 0,
) -> results.Row:
    found = dict(zip(("mean", "low", "high"), difference, strict=True))
    more: dict[str, Any] = {"ablation": {"recipe": recipe, "variant": name}, "difference": {"ndcg@10": found}}
    return row(f"BERT4Rec, {name}", f"x, variant of {recipe}", ndcg, seed, **more)


def test_the_table_is_of_the_newest_recipe_and_bold_where_it_is_no_chance(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    for each in (
        changed("as configured", "old", 0.1),
        changed("a", "old", 0.2, (0.1, 0.05, 0.15)),
        changed("as configured", "new", 0.4),
        changed("as configured", "new", 0.6, seed=1),
        row("BERT4Rec", "new", 0.7),
        changed("a", "new", 0.48, (-0.02, -0.05, 0.01)),
        changed("b", "new", 0.4, (-0.1, -0.12, -0.08)),
    ):
        results.add(file, each)
    made = rendered("<!-- ablation d BERT4Rec -->\n<!-- end -->\n<!-- table d -->\n<!-- end -->\n", file)
    lines = [line for line in made.splitlines() if line.startswith("| ") and "HR@10" not in line]
    mean = "0.5000 (0.4000 to 0.6000)"
    assert lines[:3] == [
        f"| BERT4Rec as configured | {mean} | {mean} |  |  | 2 | 1 s |",
        "| b | 0.4000 | 0.4000 | **-0.1000** | -0.1200 to -0.0800 | 1 | 1 s |",
        "| a | 0.4800 | 0.4800 | -0.0200 | -0.0500 to +0.0100 | 1 | 1 s |",
    ]
    assert len(lines) == 4  # variants stand in no other table
    assert rendered(made, file) == made
    with pytest.raises(SystemExit, match="has no ablation of SASRec on d, seen items removed"):
        rendered("<!-- ablation d SASRec -->\n<!-- end -->\n", file)
