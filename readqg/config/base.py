"""What every config class stands on: frozen, validated, comparable; and how a config is made from layers of values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from readqg.errors import ConfigError
from readqg.places import is_store, place_of

_C = TypeVar("_C", bound=BaseModel)


class Settings(BaseModel):
    """Base of all configs: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def placement(default: Any, **kwargs: Any) -> Any:
    """A field that says where work runs, not what comes out: left out when two configs are compared."""
    return Field(default, json_schema_extra=_NO_IDENTITY, **kwargs)


def later(default: Any, **kwargs: Any) -> Any:
    """A field that has come since folders were made without it: at its default it is left out too, so that they stay good."""
    return Field(default, json_schema_extra=_LATER, **kwargs)


_NO_IDENTITY: JsonDict = {"identity": False}
_LATER: JsonDict = {"identity": "later"}
BM25 = "bm25"
"""The ranking that needs no model, even where a folder has that name."""


def _place(value: str | None) -> str | None:
    """A path that exists made absolute, since workers have other working directories; a store's or a model's name as it is."""
    if is_store(value):
        try:
            return str(place_of(value or ""))
        except ConfigError as error:
            raise ValueError(str(error)) from None
    return str(Path(value).absolute()) if value and os.path.exists(value) else value


def _ranking(value: str) -> str:
    return value if value == BM25 else str(_place(value))


# A place or a model's name: the fingerprint of what lies there counts, not what it is called.
Location = Annotated[str, AfterValidator(_place), Field(json_schema_extra=_NO_IDENTITY)]
Ranking = Annotated[str, AfterValidator(_ranking), Field(json_schema_extra=_NO_IDENTITY)]
OptionalLocation = Annotated[str | None, AfterValidator(_place), Field(json_schema_extra=_NO_IDENTITY)]


def identity(config: BaseModel) -> dict[str, Any]:
    """The part of a config that decides what comes out; two runs on one folder must agree on it."""
    kept = {}
    for name, info in type(config).model_fields.items():
        said = info.json_schema_extra.get("identity") if isinstance(info.json_schema_extra, dict) else None
        value = getattr(config, name)
        if said is False or (said == "later" and value == info.default):
            continue
        kept[name] = identity(value) if isinstance(value, BaseModel) else value
    return kept


def with_later_fields(kept: Mapping[str, Any], config: BaseModel) -> dict[str, Any]:
    """An `identity` that an earlier version made of such a config, with the defaults of the fields that have come since."""
    filled = dict(kept)
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel) and isinstance(kept.get(name), Mapping):
            filled[name] = with_later_fields(kept[name], value)
        elif name not in kept and name in identity(config) and not info.is_required():
            default = info.get_default(call_default_factory=True)
            filled[name] = identity(default) if isinstance(default, BaseModel) else default
    return filled


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries over one another, the last one winning."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(out.get(key), dict)
            out[key] = merge(out[key], value) if both else value
    return out


def partial(cls: type[_C], values: dict[str, Any], missing: Any) -> _C:
    """A config with `missing` where a required field has no value yet, for the command line to fill.

    Raises `ConfigError` for unknown fields and bad values, as `make` does."""
    absent = [name for name, info in cls.model_fields.items() if info.is_required() and name not in values]
    whole = make(cls, {**dict.fromkeys(absent, ""), **values})
    fields = {name: missing if name in absent else getattr(whole, name) for name in cls.model_fields}
    return cls.model_construct(**fields)


def make(cls: type[_C], *layers: dict[str, Any]) -> _C:
    """A config from layers of values, the last one winning.

    Raises `ConfigError` naming each field at fault, what was found and what is allowed."""
    try:
        return cls.model_validate(merge(*layers))
    except ValidationError as error:
        lines = [f"  {': '.join(filter(None, ('.'.join(field), said)))}" for field, said in faults(error)]
        raise ConfigError(f"{cls.__name__} cannot be made:\n" + "\n".join(lines)) from None


def faults(error: ValidationError) -> list[tuple[tuple[str, ...], str]]:
    """(field, what is wrong and what was found) of each fault; no field where all of them together do not fit."""
    found = []
    for fault in error.errors():
        of_many = not fault["loc"] or (isinstance(fault["input"], dict) and fault["type"] in ("missing", "value_error"))
        value = "" if of_many else f"; found {fault['input']!r}"
        found.append((tuple(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ") + value))
    return found
