"""What a setting is made of, and how a field of a settings model declares it."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack, cast, get_args, get_origin

from pydantic import Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

Section: TypeAlias = Literal[
    "Service",
    "Models",
    "Qdrant server",
    "Access",
    "Uploads and jobs",
    "Load",
    "Answers",
    "Operations",
]

T = TypeVar("T")


class Bounds(TypedDict, total=False):
    """What `pydantic.Field` checks of a value."""

    gt: float
    ge: float
    le: float
    min_length: int
    allow_inf_nan: bool


def setting(
    default: T, text: str, section: Section, commands: str = "", **bounds: Unpack[Bounds]
) -> T:
    """A field of `Settings`.

    Args:
        default: its value if none is given. None of a `Literal` means its first choice.
        text: what it is, for the help, the docs and messages: begins small, ends without a full
            stop. The choices of a `Literal` are added to it.
        section: its part of the help and of the docs.
        commands: those that take it as an option: "serve ui demo mcp".
        bounds: what values are allowed.
    """
    extra: dict[str, Any] = {"section": section, "commands": commands.split()}
    return Field(default, description=text, json_schema_extra=extra, **bounds)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is declared of one setting.

    name: of the field. text: what it is, with its choices. default: as people write it; empty
    where there is none. kind: its type, without None. section: see `Section`. commands: those that
    take it as an option.
    """

    name: str
    text: str
    default: str
    kind: object
    section: str
    commands: tuple[str, ...]

    @property
    def secret(self) -> bool:
        """Whether its value must never be shown."""
        return self.kind is SecretStr


def declared(model: type[BaseSettings]) -> list[Setting]:
    """All settings of a model whose fields are made by `setting`, in their order."""
    return [_declared(name, field) for name, field in model.model_fields.items()]


def _declared(name: str, field: FieldInfo) -> Setting:
    kinds = get_args(field.annotation)
    kind = kinds[0] if NoneType in kinds else field.annotation
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    text = ": ".join(filter(None, (field.description, ", ".join(choices))))
    default = next(iter(choices), None) if field.default is None else field.default
    if isinstance(default, bool):
        default = str(default).lower()
    extra = cast("dict[str, Any]", field.json_schema_extra)
    return Setting(name, text, str(default or ""), kind, extra["section"], tuple(extra["commands"]))
