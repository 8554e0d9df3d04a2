"""A resource that is added to a contract: its names and its examples."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dev.scaffold.fields import Field, Fields
from openapi.tables import METHOD_BY_VERB

# The verbs on a single row, and their HTTP methods.
ROW_METHODS = {verb: METHOD_BY_VERB[verb] for verb in ("get", "replace", "update", "delete")}
# Spelled with a vowel but spoken with a consonant (`a user`), and the reverse (`an hour`).
CONSONANT_SOUND = re.compile("eu|one|once|uni|ur|us|ut|uu")
VOWEL_SOUND = re.compile("[aeiou]|heir|honest|honor|hour")
ORG_ID_EXAMPLE = "019ab2f4-7c1e-7a52-9f3d-2b6c8e5d4a10"
TIME_EXAMPLE = "2026-11-23T11:00:00Z"
FORMAT_EXAMPLES = {
    "date": "2026-12-01",
    "date-time": "2026-12-01T09:00:00Z",
    "uuid": "019ab2f7-51c0-7b1a-8f3e-9d2c4b6a8e01",
    "email": "someone@example.com",
}


@dataclass(frozen=True)
class Resource:
    """A resource, as it is written into the contract.

    `reference_examples` has an example id for each field that references a table.
    `has_idempotency` and `has_etag` say whether the contract has the components for them.
    """

    name: str
    singular: str
    schema: str
    verbs: tuple[str, ...]
    fields: Fields
    reference_examples: Mapping[str, str]
    has_idempotency: bool
    has_etag: bool

    @property
    def path(self) -> str:
        """The path of the collection."""
        return f"/orgs/{{org_id}}/{self.name}"

    @property
    def plural_noun(self) -> str:
        """The name in words: `order lines`."""
        return self.name.replace("_", " ")

    @property
    def noun(self) -> str:
        """The singular in words: `order line`."""
        return self.singular.replace("_", " ")

    @property
    def noun_with_article(self) -> str:
        """The singular with its indefinite article: `a task`, `an order line`."""
        has_vowel = VOWEL_SOUND.match(self.noun) and not CONSONANT_SOUND.match(self.noun)
        return f"{'an' if has_vowel else 'a'} {self.noun}"

    @property
    def id_example(self) -> str:
        """An example UUIDv7, derived from the name."""
        digits = hashlib.sha256(self.name.encode()).hexdigest()
        return f"019ab2f6-{digits[:4]}-7{digits[4:7]}-8{digits[7:10]}-{digits[10:22]}"

    @property
    def is_mutable(self) -> bool:
        """Whether an operation changes rows, so that they have `updated_at`."""
        return "replace" in self.verbs or "update" in self.verbs


def filter_columns(fields: Fields) -> list[Field]:
    """Return the columns that a list can be filtered by: references, and those indexed alone."""
    indexed = {names[0] for names in fields.indexes if len(names) == 1}
    return [column for column in fields.columns if column.table or column.name in indexed]


def request_example(resource: Resource) -> dict[str, Any]:
    """Return the example of a body that creates or replaces a row: what clients must send."""
    columns = resource.fields.columns
    required = [column for column in columns if column.is_required] or columns[:1]
    return {column.name: field_example(column, resource) for column in required}


def patch_example(resource: Resource) -> dict[str, Any]:
    """Return the example of an update: preferably a flag, else a field that is no reference."""
    columns = resource.fields.columns
    plain = [column for column in columns if not column.table] or columns
    flag = next((column for column in plain if column.schema["type"] == "boolean"), None)
    if flag:
        return {flag.name: not flag.default}
    return {plain[-1].name: field_example(plain[-1], resource)}


def row_example(resource: Resource) -> dict[str, Any]:
    """Return the example of a row in a response."""
    values = {column.name: field_example(column, resource) for column in resource.fields.columns}
    example = {"id": resource.id_example, "org_id": ORG_ID_EXAMPLE, **values}
    example["created_at"] = TIME_EXAMPLE
    if resource.is_mutable:
        example["updated_at"] = TIME_EXAMPLE
    return example


def field_example(column: Field, resource: Resource) -> Any:
    """Return the default of a field, or else a valid value."""
    if column.default is not None:
        return column.default
    return resource.reference_examples.get(column.name) or _value(column.schema, column.name)


def _value(schema: Mapping[str, Any], name: str) -> Any:
    type_name = schema["type"]
    if "enum" in schema:
        return schema["enum"][0]
    if type_name == "array":
        return [_value(schema["items"], name)]
    if type_name == "boolean":
        return False
    if type_name in ("integer", "number"):
        return min(max(1, schema["minimum"]), schema["maximum"])
    if schema.get("format") in FORMAT_EXAMPLES:
        return FORMAT_EXAMPLES[schema["format"]]
    text = name.replace("_", " ").capitalize()
    return text[: schema["maxLength"]].ljust(schema.get("minLength", 0), "x")
