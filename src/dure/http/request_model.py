"""The models of requests' bodies: typed, and honest about what they do not know.

Knows pydantic, and how a table decides about the fields that a model does not have.
Refuses to know any field: dialects have the tables.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from dure.errors import ParameterError
from dure.http.unused_fields import FieldTable, Refused, is_strict, note_unused

__all__ = ["BodyPart", "RequestBody", "examples", "field_names", "type_of"]

_ALIKE = 0.8  # of difflib's ratio: temprature, max_token


def _adapt(schema: Any, *, in_list: bool = False) -> None:
    """Let lists fail at their first bad item, and integers outside of lists be written as 64.0."""
    if isinstance(schema, dict):
        is_list = schema.get("type") == "list"
        for part in schema.values():
            _adapt(part, in_list=in_list or is_list)
        if is_list:
            schema["fail_fast"] = True
        elif schema.get("type") == "int" and not in_list:
            inner = dict(schema)
            schema.clear()
            schema.update(core_schema.no_info_before_validator_function(_whole, inner))
    elif isinstance(schema, list | tuple):
        for part in schema:
            _adapt(part, in_list=in_list)


def _whole(value: Any) -> Any:
    """Return 64 for 64.0: JSON has one kind of number, and some languages' clients write 64.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class BodyPart(BaseModel):
    """A part of a body, whose fields are of their stated types: no "1" for 1.

    Fields that it does not have are kept until the body's table has decided about them.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    REFUSES_MISSPELLED: ClassVar[bool] = False

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Refuse every list at its first bad item: a million complaints would take minutes."""
        schema = handler(source)
        _adapt(schema)
        return schema


class RequestBody(BodyPart):
    """A whole body. FIELDS: what happens to the fields that it and its parts do not have."""

    REFUSES_MISSPELLED = True
    FIELDS: ClassVar[FieldTable] = {}

    @model_validator(mode="after")
    def _judge(self) -> Self:
        """Ignore or refuse what the models do not have. Raises ParameterError."""
        for unused in list(_unused(self)):
            unused.judge(self.FIELDS)
        return self


@dataclass(frozen=True)
class _Unused:
    """A field that its model does not have. place: with the numbers of lists; path: without."""

    place: str
    path: str
    value: Any
    model: type[BodyPart]

    def judge(self, table: FieldTable) -> None:
        name = self.path.rpartition(".")[2]
        fate = table.get(self.path) or table.get(f"*.{name}")
        if fate is None:
            self._judge_unknown(name)
        elif self.value is None or self.value in fate.unless:
            return
        elif isinstance(fate, Refused):
            raise ParameterError(self.place, f"{self.place}: {fate.reason}", fate.cure)
        elif fate.wish and is_strict():
            raise ParameterError(self.place, f"{self.place}: {fate.reason}", "leave it out")
        else:
            note_unused(self.path)

    def _judge_unknown(self, name: str) -> None:
        complaint = f"{self.place}: there is no such parameter"
        close = difflib.get_close_matches(name, field_names(self.model), 1, _ALIKE)
        if close and self.model.REFUSES_MISSPELLED:
            raise ParameterError(self.place, complaint, f"did you mean {close[0]}?")
        if is_strict():
            raise ParameterError(self.place, complaint, "remove it, or see /docs")
        note_unused(self.path, known=False)


def _unused(value: Any, place: str = "", path: str = "") -> Iterator[_Unused]:
    """Yield the fields that models do not have, and make the models forget them."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unused(item, f"{place}.{index}", path)
    elif isinstance(value, BodyPart):
        for name, other in (value.__pydantic_extra__ or {}).items():
            yield _Unused(_within(place, name), _within(path, name), other, type(value))
        value.__pydantic_extra__ = {}
        for name, info in type(value).model_fields.items():
            shown = info.alias or name
            yield from _unused(getattr(value, name), _within(place, shown), _within(path, shown))


def _within(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def field_names(model: type[BaseModel]) -> list[str]:
    """Return the names of a model's fields, as clients write them."""
    return [info.alias or name for name, info in model.model_fields.items()]


def type_of(value: Any) -> Any:
    """Return the `type` of a union's alternative: of JSON that is read, or of a model that is written."""
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


def examples(*bodies: dict[str, Any]) -> ConfigDict:
    """Return the setting that shows these bodies in the document, and on its page."""
    return ConfigDict(json_schema_extra={"examples": list(bodies)})
