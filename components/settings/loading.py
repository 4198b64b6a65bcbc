"""Reads the stack's config into the model of its cloud. Every wrong setting is reported at once.

Nothing else reads config. Whether a region or a machine type exists is asked by the cloud's own component.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pulumi
from pulumi.runtime import config as runtime_config
from pydantic import ValidationError

from components.settings.errors import Problem, SettingsError, contradictions, did_you_mean, wrong_values
from components.settings.keys import Key, keys_of
from components.settings.model import Settings
from components.settings.names import MAX_STACK_NAME, dns_name

Models = Mapping[str, type[Settings]]
"""The model of each cloud, by the value of `cloud`."""


def load(models: Models) -> Settings:
    """The settings of the running stack. Raises `SettingsError` naming every wrong one."""
    values, secrets = configured(pulumi.get_project())
    return parse(values, models, stack=pulumi.get_stack(), secrets=secrets)


def configured(project: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Every key set in the project's namespace with its value, and the names of the encrypted ones.

    `pulumi.Config` reads a key only by its name, so it would not show a misspelt key.
    """
    raw: dict[str, Any] = {**runtime_config.get_config_env(), **runtime_config.CONFIG.get()}
    prefix = f"{project}:"
    values = {name.removeprefix(prefix): value for name, value in raw.items() if name.startswith(prefix)}
    marked = {*runtime_config.get_config_secret_keys_env(), *runtime_config._SECRET_KEYS.get()}
    return values, frozenset(name.removeprefix(prefix) for name in marked if name.startswith(prefix))


def parse(values: Mapping[str, Any], models: Models, *, stack: str, secrets: frozenset[str] = frozenset()) -> Settings:
    """Settings from config values (text, or what JSON text holds). Raises `SettingsError` naming every wrong one.

    values: by config key, as Pulumi passes them. secrets: the keys that the stack keeps encrypted.
    """
    known = known_keys(models)
    given = {name: decoded(value, known.get(name)) for name, value in values.items()}
    given = {name: value for name, value in given.items() if not is_unset(value)}
    problems = [unknown(name, known) for name in given if name not in known]
    problems += wrongly_kept(given, known, secrets)
    model = models.get(str(given.get("cloud")))
    settings = None
    if model is None:
        problems += [wrong_cloud(given.get("cloud"), models), *problems_on_any_cloud(given, models, stack)]
    else:
        problems += misplaced(given, known, models)
        own = {name: value for name, value in given.items() if name in keys_of(model)}
        settings, wrong = validated({**own, "stack": stack}, model)
        problems += wrong
    problems += wrong_stack_name(stack)
    if problems or settings is None:
        raise SettingsError(stack, problems)
    return settings


def wrongly_kept(given: Mapping[str, Any], known: Mapping[str, Key], secrets: frozenset[str]) -> Iterator[Problem]:
    """Problems of secrets in plain text, and of encrypted values that the program would store in plain text."""
    for name, key in known.items():
        if name in given and key.secret and name not in secrets:
            yield Problem(name, None, "kept encrypted only; here it stands in plain text", key.command())
        if name in given and key.plain and name in secrets:
            allowed = "kept in plain text only: nothing secret belongs into it, since the cluster shows it to its users"
            yield Problem(name, None, allowed, f"pulumi config rm {name} && {key.command()}")


def known_keys(models: Models) -> dict[str, Key]:
    """Every config key of any cloud, by name; those that all clouds have come first."""
    found = dict(keys_of(Settings))
    for model in models.values():
        for name, key in keys_of(model).items():
            found.setdefault(name, key)
    return found


def validated(given: Mapping[str, Any], model: type[Settings]) -> tuple[Settings | None, list[Problem]]:
    """The settings, or None and every problem: values that are wrong, and those that contradict one another."""
    try:
        return model.model_validate(given), []
    except ValidationError as error:
        problems = wrong_values(error, model, given)
        if not problems:
            return None, contradictions(error)
    # Contradictions are found only where every value is valid, so a second look replaces the wrong ones.
    wrong = {problem.key for problem in problems}
    examples = {key.name: key.example for key in keys_of(model).values() if key.info.is_required()}
    try:
        model.model_validate({**examples, **{name: value for name, value in given.items() if name not in wrong}})
    except ValidationError as error:
        problems += [found for found in contradictions(error) if not wrong & {found.key, *found.others}]
    return None, problems


def problems_on_any_cloud(given: Mapping[str, Any], models: Models, stack: str) -> Iterator[Problem]:
    """Problems that can be named before it is known on which cloud the stack runs."""
    reported: set[str] = set()
    candidates: list[type[Settings]] = [Settings, *models.values()]
    for model in candidates:
        own = {name: value for name, value in given.items() if name in keys_of(model)}
        for problem in validated({**own, "stack": stack}, model)[1]:
            if problem.key in own and problem.key not in reported and problem.key != "cloud":
                reported.add(problem.key)
                yield problem


def decoded(value: Any, key: Key | None) -> Any:
    """A value as it was in YAML: Pulumi passes lists and maps as JSON text."""
    if isinstance(value, str) and value[:1] in ("[", "{") and not (key and key.secret):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def is_unset(value: Any) -> bool:
    """True if a value means that nothing was set. 0 and false do not: `workers: 0` must be an error."""
    return value is None or value in ("", [], {}, ())


def unknown(name: str, known: Mapping[str, Key]) -> Problem:
    """The problem of a key that does not exist. Its value is not shown: it may be a misspelt secret's."""
    by_lower = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if not near:
        return Problem(name, None, f"no such key; there are {', '.join(known)}", f"pulumi config rm {name}")
    meant = known[by_lower[near[0]]]
    fix = f"pulumi config rm {name} && {meant.command()}"
    return Problem(name, None, f"no such key; did you mean {meant.name}?", fix)


def wrong_cloud(given: Any, models: Models) -> Problem:
    """The problem of a cloud that is not set or does not exist."""
    choices = f"one of {', '.join(models)}"
    if given is None:
        return Problem("cloud", "not set", choices, "pulumi config set cloud local")
    near = did_you_mean(str(given), list(models))
    return Problem("cloud", repr(given), choices + near, "pulumi config set cloud local")


def misplaced(given: Mapping[str, Any], known: Mapping[str, Key], models: Models) -> Iterator[Problem]:
    """Problems of settings that have no meaning on the chosen cloud, where the user would believe them in force.

    A value that is the default elsewhere is accepted: Pulumi passes the defaults in Pulumi.yaml to every stack.
    """
    cloud = str(given["cloud"])
    for name, value in given.items():
        if name == "cloud" or name not in known or name in keys_of(models[cloud]):
            continue
        if str(value).lower() == str(known[name].default).lower():
            continue
        clouds = [other for other, model in models.items() if name in keys_of(model)]
        yield Problem(
            name,
            repr(value) if known[name].shown else "set",
            f"only where cloud is {' or '.join(clouds)}; here it is {cloud}",
            f"pulumi config rm {name}",
        )


def wrong_stack_name(stack: str) -> list[Problem]:
    """The problem of a stack name from which no resource name can be made."""
    if 0 < len(dns_name(stack)) <= MAX_STACK_NAME:
        return []
    return [
        Problem(
            "the stack's name",
            repr(stack),
            f"at most {MAX_STACK_NAME} characters, some of them letters or digits",
            "pulumi stack rename a-shorter-name",
        )
    ]
