"""Config keys as users know them, read from the fields of a model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, SecretStr, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from components.settings.fields import Allowed


def key_name(field: str) -> str:
    """The config key of a field: `home_gib` is `homeGiB`."""
    return to_camel(field).replace("Gib", "GiB")


@dataclass(frozen=True)
class Type:
    """Type of a value: the bare type, its constraints, and the words for the allowed values."""

    bare: Any
    metadata: tuple[Any, ...]

    @classmethod
    def of(cls, annotation: Any, metadata: tuple[Any, ...] = ()) -> Type:
        """The type of an annotation, without `None` and `Annotated`."""
        while True:
            origin, args = get_origin(annotation), get_args(annotation)
            if origin is Annotated:
                annotation, metadata = args[0], (*args[1:], *metadata)
            elif origin in (Union, UnionType):
                annotation = next(entry for entry in args if entry is not type(None))
            else:
                return cls(annotation, metadata)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words to choose from; none where the type is not a choice."""
        if get_origin(self.bare) is not Literal:
            return ()
        return tuple(str(word).lower() if isinstance(word, bool) else str(word) for word in get_args(self.bare))

    @property
    def item(self) -> Type | None:
        """The type of a list's items; None where it is no list."""
        return Type.of(get_args(self.bare)[0]) if get_origin(self.bare) is tuple else None

    @property
    def name(self) -> str:
        """The kind of value in a word or two, for the documentation."""
        if self.choices:
            return "one of"
        if self.item:
            return "list"
        names = {int: "whole number", float: "number", bool: "true or false", str: "text", SecretStr: "text"}
        return names.get(self.bare, "map")

    def bounds(self) -> tuple[float | None, float | None]:
        """The smallest and the largest number that is allowed."""
        minimum = next((entry.ge for entry in self.metadata if isinstance(entry, annotated_types.Ge)), None)
        maximum = next((entry.le for entry in self.metadata if isinstance(entry, annotated_types.Le)), None)
        return minimum, maximum  # type: ignore[return-value]  # declared as anything that can be compared

    @property
    def words(self) -> str:
        """The words of `Allowed`, with the length where it is bounded."""
        words = next((entry.words for entry in self.metadata if isinstance(entry, Allowed)), "")
        lengths = [entry.max_length for entry in self.metadata if isinstance(entry, StringConstraints)]
        lengths += [entry.max_length for entry in self.metadata if isinstance(entry, annotated_types.MaxLen)]
        limit = next(iter(lengths), None)
        return f"{words}, at most {limit} characters" if limit and limit < 253 else words


@dataclass(frozen=True)
class Key:
    """One config key of a model."""

    field: str
    info: FieldInfo

    @property
    def name(self) -> str:
        """The key as users write it."""
        return key_name(self.field)

    @property
    def type(self) -> Type:
        """Type of the value."""
        return Type.of(self.info.annotation, tuple(self.info.metadata))

    @property
    def secret(self) -> bool:
        """True if the value is accepted only encrypted, and never shown."""
        return bool(self._extra["secret"])

    @property
    def plain(self) -> bool:
        """True if an encrypted value is refused, since the value ends up where everybody can read it."""
        return bool(self._extra["plain"])

    @property
    def chart(self) -> str:
        """Path of the value of the chart that the setting is passed to as it is; empty for none."""
        return str(self._extra["chart"])

    @property
    def shown(self) -> bool:
        """True if messages may repeat the given value."""
        return bool(self._extra["shown"]) and not self.secret

    @property
    def description(self) -> str:
        """Purpose of the setting, in a line."""
        return self.info.description or ""

    @property
    def example(self) -> str:
        """A valid value, as it stands on a command line; none for a secret."""
        return str(self.info.examples[0]) if self.info.examples else ""

    @property
    def default(self) -> Any:
        """The default where it is one value; None where it is unset, required, or made from other settings."""
        return None if self.info.is_required() or self.info.default_factory else self.info.default

    @property
    def default_words(self) -> str:
        """Meaning of an unset setting, if that is not one value."""
        return str(self._extra["default"])

    @property
    def allowed(self) -> str:
        """Allowed values, as a noun."""
        kind, counts = self.type, self._extra["counts"]
        minimum, maximum = kind.bounds()
        if kind.choices:
            return f"one of {', '.join(kind.choices)}"
        if counts:
            return f"a whole number of {counts} from {minimum} to {maximum}"
        if kind.bare is bool:
            return "true or false"
        if kind.item:
            return f"a list, each item {kind.item.words}"
        return f"{kind.words}, from {minimum:g} to {maximum:g}" if minimum is not None else kind.words

    @property
    def missing(self) -> str:
        """Allowed values to name when the setting is required and absent."""
        return str(self._extra["missing"] or self.allowed)

    @property
    def missing_fix(self) -> str:
        """The command that gives a required setting."""
        return str(self._extra["fix"] or self.command())

    @property
    def wrong_fix(self) -> str:
        """The command that fixes a wrong value."""
        return self.command() if self.info.is_required() else self.missing_fix

    def command(self, value: str | None = None) -> str:
        """The command that sets the key, to an example unless a value is given. A secret is read from the terminal."""
        if self.secret:
            return f"pulumi config set --secret {self.name}"
        return f"pulumi config set {self.name} {shlex.quote(self.example if value is None else value)}"

    @property
    def _extra(self) -> dict[str, Any]:
        return self.info.json_schema_extra if isinstance(self.info.json_schema_extra, dict) else {}


@cache
def keys_of(model: type[BaseModel]) -> dict[str, Key]:
    """The config keys of a model by name, in the order of its fields."""
    found = [Key(field, info) for field, info in model.model_fields.items() if info.json_schema_extra]
    return {key.name: key for key in found}
