"""docs/reference.md, made from the config classes: python -m tools.reference [--check]"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic.fields import FieldInfo

from readqg import cli, config, errors
from readqg.config import base

FILE = Path(__file__).parents[1] / "docs" / "reference.md"
RENEW = "python -m tools.reference"


def reference() -> str:
    """The page."""
    commands = [command.config for command in cli.COMMANDS.values()]
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, command in cli.COMMANDS.items():
        about = {"name": name, "about": cli.api_doc(name), "returns": cli.api_doc(name, 1), "command": command, **_about(command.config)}
        groups.setdefault(command.group, []).append(about)
    settings = [cls for cls in _classes() if cls not in commands]
    env = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return env.get_template("reference.md.j2").render(
        groups=groups, settings=[_about(cls) for cls in settings], presets=config.PRESETS, sample=config.SAMPLE_PRESET,
        codes=cli.EXIT_CODES, errors=[cls for cls in vars(errors).values() if inspect.isclass(cls)], renew=RENEW,
    )


def _classes() -> list[type[config.Settings]]:
    """All config classes, in the order of their names in `readqg.config`."""
    held = (getattr(config, name) for name in config.__all__)
    return [cls for cls in held if inspect.isclass(cls) and issubclass(cls, config.Settings) and cls is not config.Settings]


def _about(cls: type[config.Settings]) -> dict[str, Any]:
    """A class's own fields, with the classes that it extends and holds."""
    own = [name for name in cls.__annotations__ if name in cls.model_fields]
    doc = "" if "__doc__" not in vars(cls) else " ".join((cls.__doc__ or "").split())
    return {
        "title": cls.__name__, "doc": doc,
        "extends": [b.__name__ for b in cls.__bases__ if b is not config.Settings],
        "fields": [_field(name, cls.model_fields[name]) for name in own],
    }


def _field(name: str, info: FieldInfo) -> dict[str, str]:
    placed = isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("identity") is False
    nested = _settings(info.annotation)
    text = " ".join((info.description or "").split())
    if nested:
        link = f"[{nested.__name__}](#{nested.__name__.lower()})."
        text = f"{text} Fields of {link}" if text else link
    return {
        "name": f"`{name}`" + (" *" if placed and not _is_place(info) and not nested else ""),
        "kind": _cell(_kind(info)), "default": _cell(_default(info)), "text": _cell(text),
    }


def _settings(annotation: Any) -> type[config.Settings] | None:
    """The config class that a field holds, where it holds one."""
    inside = [annotation, *get_args(annotation)]
    return next((a for a in inside if inspect.isclass(a) and issubclass(a, config.Settings)), None)


def _is_place(info: FieldInfo) -> bool:
    return any(getattr(m, "func", None) in (base._place, base._ranking) for m in info.metadata)


def _kind(info: FieldInfo) -> str:
    if _is_place(info):
        return "place"
    if nested := _settings(info.annotation):
        return nested.__name__ if get_origin(info.annotation) is not dict else f"name: {nested.__name__}"
    return ", ".join([_named(info.annotation), *_limits(info.metadata)])


def _limits(metadata: Iterable[Any]) -> list[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return [f"{sign} {_number(value)}" for m in metadata for kind, sign in signs.items() if (value := getattr(m, kind, None)) is not None]


def _named(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_named(a) for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is Annotated:
        return " ".join([_named(get_args(annotation)[0]), *_limits(annotation.__metadata__)])
    if get_origin(annotation) is tuple:
        inside = get_args(annotation)
        return f"{_named(inside[0])}s" if inside[-1] is Ellipsis and get_origin(inside[0]) is not Literal else (
            f"some of {_named(inside[0])}" if inside[-1] is Ellipsis else "lowest, highest")
    if get_origin(annotation) is dict:
        return "fields"
    return {int: "whole number", float: "number", str: "text", bool: "yes or no"}[annotation]


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**needed**"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, config.Settings):
        changed = {k: v for k, v in value.model_dump().items() if v != type(value)().model_dump()[k]}
        return ", ".join(f"`{k}` {_number(v)}" for k, v in changed.items()) or "its own"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(_number, value)) or "none"
    if isinstance(value, str):
        return f"`{value!r}`" if "\n" in value else f"`{value}`" if value else "empty"
    return _number(value) if value != {} else "none"


def _number(value: Any) -> str:
    if isinstance(value, int) and value >= 10_000 and value % (1 << 20) == 0:
        return f"{value >> 30} GiB" if value % (1 << 30) == 0 else f"{value >> 20} MiB"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")


def main() -> int:
    """Write the page, or say whether the one that is there is that."""
    if "--check" in sys.argv[1:]:
        if FILE.read_text() == reference():
            return 0
        sys.stderr.write(f"{FILE.name} is not what the classes give: {RENEW}\n")
        return 1
    FILE.write_text(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
