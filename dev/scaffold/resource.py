"""One resource as it is to be written: its words and its examples."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dev.scaffold.fields import Field, Fields
from openapi.tables import METHOD_BY_VERB

METHODS = {verb: METHOD_BY_VERB[verb] for verb in ("get", "replace", "update", "delete")}
ORG_ID = "019ab2f4-7c1e-7a52-9f3d-2b6c8e5d4a10"
TIME = "2026-11-23T11:00:00Z"
EXAMPLES = {
    "date": "2026-12-01",
    "date-time": "2026-12-01T09:00:00Z",
    "uuid": "019ab2f7-51c0-7b1a-8f3e-9d2c4b6a8e01",
    "email": "someone@example.com",
}


@dataclass(frozen=True)
class Resource:
    """What is to be written; `ids` are the examples of the tables referred to, by field.

    `keyed` says that the contract knows Idempotency-Key, `tagged` that it knows ETag.
    """

    name: str
    singular: str
    verbs: tuple[str, ...]
    fields: Fields
    ids: Mapping[str, str]
    keyed: bool
    tagged: bool

    @property
    def schema(self) -> str:
        return "".join(word.capitalize() for word in self.singular.split("_"))

    @property
    def path(self) -> str:
        return f"/orgs/{{org_id}}/{self.name}"

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")

    @property
    def one(self) -> str:
        """`a task`, `an order line`."""
        noun = self.singular.replace("_", " ")
        return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"

    @property
    def the(self) -> str:
        return f"The {self.singular.replace('_', ' ')}"

    @property
    def id(self) -> str:
        """An example, always the same for one name."""
        digits = hashlib.sha256(self.name.encode()).hexdigest()
        return f"019ab2f6-{digits[:4]}-7{digits[4:7]}-8{digits[7:10]}-{digits[10:22]}"

    @property
    def changes(self) -> bool:
        return bool({"replace", "update"} & {*self.verbs})


def filters(fields: Fields) -> list[Field]:
    """Return the columns that the list can be filtered by: those that an index leads to."""
    alone = {names[0] for names in fields.indexes if len(names) == 1}
    return [c for c in fields.columns if c.table or c.name in alone]


def sent(made: Resource) -> dict[str, Any]:
    return {c.name: example(c, made) for c in made.fields.columns if c.wanted} or {
        c.name: example(c, made) for c in made.fields.columns[:1]
    }


def changed(made: Resource) -> dict[str, Any]:
    """Return the example of a change: a field of its own, sooner than what it refers to."""
    columns = made.fields.columns
    own = [c for c in columns if not c.table] or columns
    flag = next((c for c in own if c.schema["type"] == "boolean"), None)
    return {flag.name: not flag.default} if flag else {own[-1].name: example(own[-1], made)}


def answered(made: Resource) -> dict[str, Any]:
    own = {column.name: example(column, made) for column in made.fields.columns}
    times = {"created_at": TIME} | ({"updated_at": TIME} if made.changes else {})
    return {"id": made.id, "org_id": ORG_ID, **own, **times}


def example(column: Field, made: Resource) -> Any:
    if column.default is not None:
        return column.default
    return made.ids.get(column.name) or _value(column.schema, column.name)


def _value(schema: Mapping[str, Any], name: str) -> Any:
    kind = schema["type"]
    if "enum" in schema:
        return schema["enum"][0]
    if kind == "array":
        return [_value(schema["items"], name)]
    if kind == "boolean":
        return False
    if kind in ("integer", "number"):
        return min(max(1, schema["minimum"]), schema["maximum"])
    if schema.get("format") in EXAMPLES:
        return EXAMPLES[schema["format"]]
    text = name.replace("_", " ").capitalize()
    return text[: schema["maxLength"]].ljust(schema.get("minLength", 0), "x")
