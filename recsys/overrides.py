"""YAML as a person writes it, and `section.key=value` on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from recsys.errors import InputError

DEFAULT_MODEL = "bert4rec"


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may be written `2e-3`, which YAML 1.1 takes for text, and whose keys stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, unless a key is there twice, of which one would be lost."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"`{twice[0]}` is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str) -> Any:  # noqa: ANN401 -- whatever the text says
    """Plain values of a YAML text."""
    return yaml.load(text, _Loader)  # a safe loader: it makes plain values only


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set keys in the order given, but choose the model and the split before any of their settings.

    Raises:
        InputError: as `apply_override`.
    """
    chooses = ("model=", "model.name=", "split=", "split.kind=")
    for override in sorted(overrides, key=lambda override: not override.startswith(chooses)):
        apply_override(tree, override)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one key of nested sections, such as `training.epochs=5`; the value is YAML, or else plain text.

    Raises:
        InputError: there is no `=`, or a part of the key is a value and no section.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError(f"override `{override}` has no `=`; expected key=value, such as training.epochs=5")
    *sections, leaf = key.split(".")
    branch = tree
    for section in sections:
        below = branch.setdefault(section, {})
        if isinstance(below, str) and section in ("model", "split"):
            below = branch[section] = {"name" if section == "model" else "kind": below}
        if not isinstance(below, dict):
            raise InputError(f"override `{override}`: `{section}` is a value, not a section")
        branch = below
    try:
        value = parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        value = text  # such as a time format, which begins with YAML's reserved `%`, or a 30th of February
    if key in ("model.name", "split.kind") and branch.get(leaf, DEFAULT_MODEL) != value:
        branch.clear()  # another model or split: the settings of the file's one mean nothing to it
    branch[leaf] = value
