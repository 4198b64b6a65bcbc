"""Generates from the settings' models: the config block of Pulumi.yaml, and docs/settings.md.

    python -m components.generate

`make generate` runs it; a test compares the files with the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from common.paths import REPO
from components.clouds import MODELS
from components.settings.keys import Key, keys_of
from components.settings.loading import known_keys
from components.settings.model import Settings

PROJECT_FILE = REPO / "Pulumi.yaml"
REFERENCE_FILE = REPO / "docs" / "settings.md"

CONFIG_BLOCK = """\
# Written by `make generate` from the models in components/settings and components/clouds; do not edit.
# "" and [] mean unset. No `type` is declared: the Pulumi CLI would stop at the first wrong one, and the program reports
# all that is wrong at once.
config:
"""

REFERENCE = """\
# Settings

<!-- Written by `make generate` from the models in components/settings and components/clouds; do not edit. -->

`pulumi config set <key> <value>` sets a key; `pulumi config rm <key>` unsets it. A list is written with commas or
blanks between its items, or as YAML in the stack's file. Every wrong setting is reported at once, with the command that
fixes it. A key that has no meaning on the chosen cloud is an error.
"""

COLUMNS = ("key", "type", "allowed", "default", "description", "example")


def config_block() -> str:
    """The `config:` block of Pulumi.yaml: every key with its default and a description."""
    entries = {}
    for name, key in known_keys(MODELS).items():
        versions = {cloud: keys_of(model)[name] for cloud, model in MODELS.items() if name in keys_of(model)}
        same = all(version.default == key.default for version in versions.values())
        entries[name] = {"description": description(key, versions), "default": in_yaml(key.default) if same else ""}
    text = yaml.safe_dump({"config": entries}, sort_keys=False, width=10**6, allow_unicode=True)
    return CONFIG_BLOCK + text.removeprefix("config:\n")


def description(key: Key, versions: Mapping[str, Key]) -> str:
    """A key's description for the Pulumi CLI, with the clouds that have it where not all do. versions: by cloud."""
    if key.name == "cloud":
        return f"{key.description}: one of {', '.join(MODELS)}"
    by_text: dict[str, list[str]] = {}
    for cloud, version in versions.items():
        by_text.setdefault(version.description, []).append(cloud)
    if key.name in keys_of(Settings):
        text = key.description
    else:
        text = "; ".join(f"{words} ({', '.join(clouds)})" for words, clouds in by_text.items())
    if key.type.choices:
        text += f": {key.allowed}"
    if key.default_words:
        text += f"; unset means {key.default_words}"
    return f"{text}. Set it by: {key.command()}" if key.secret else text


def in_yaml(default: Any) -> Any:
    """A default as Pulumi.yaml holds it; "" and [] mean unset."""
    if isinstance(default, tuple):
        return list(default)
    if isinstance(default, float) and default.is_integer():
        return int(default)
    return "" if default is None or default == {} else default


def reference() -> str:
    """docs/settings.md: a table of the keys that are the same on every cloud, and one for each cloud's own."""
    rows = {cloud: {name: row(key) for name, key in keys_of(model).items()} for cloud, model in MODELS.items()}
    common = {
        name: cells
        for name, cells in next(iter(rows.values())).items()
        if all(own.get(name) == cells for own in rows.values())
    }
    cloud_key = known_keys(MODELS)["cloud"]
    first = ("`cloud`", "one of", ", ".join(MODELS), "required", cloud_key.description, f"`{cloud_key.example}`")
    parts = [REFERENCE, "## Every cloud\n", table([first, *common.values()])]
    for cloud, own in rows.items():
        parts += [f"## `cloud: {cloud}`\n", f"{MODELS[cloud].__doc__}\n"]
        parts += [table(cells for name, cells in own.items() if name not in common)]
    return "\n".join(parts)


def row(key: Key) -> tuple[str, ...]:
    """The cells of one key."""
    kind = key.type
    minimum, maximum = kind.bounds()
    if minimum is not None and maximum is not None:
        allowed = f"{minimum:g} to {maximum:g}"
    elif kind.choices:
        allowed = ", ".join(kind.choices)
    elif kind.item:
        allowed = f"each item {kind.item.words}"
    else:
        allowed = "" if kind.bare is bool else key.allowed
    example = f"`{key.command()}`" if key.secret else f"`{key.example}`"
    secret = ", secret" if key.secret else ""
    return f"`{key.name}`", kind.name + secret, allowed, shown_default(key), key.description, example


def shown_default(key: Key) -> str:
    """The default in words or as a value."""
    if key.info.is_required():
        return key.default_words or "required"
    if key.default_words:
        return key.default_words
    value = in_yaml(key.default)
    return "none" if value in ("", []) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def project_file(text: str) -> str:
    """Pulumi.yaml with a new config block, which is its end. text: the file as it is."""
    head, _, _ = text.partition("# Written by `make generate`")
    return head + config_block()


def generated() -> dict[Path, str]:
    """The content of each generated file."""
    return {PROJECT_FILE: project_file(PROJECT_FILE.read_text()), REFERENCE_FILE: reference()}


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content)
        print(f"wrote {path.relative_to(REPO)}")
