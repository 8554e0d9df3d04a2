"""Changes between the operations of two contracts: parameters, bodies and responses."""

from collections.abc import Iterator, Mapping
from typing import Any

from dev.breaking.change import (
    Change,
    Comparison,
    breaking,
    locate_ref,
    safe,
    security_breaking,
)
from dev.breaking.extensions import inherited_changes, own_changes
from dev.breaking.schemas import schema_changes
from dev.breaking.security import requirement_changes, requirements_of
from openapi.documents import NodePath, each_operation, list_at, mapping_at, resolve

Parameters = dict[tuple[str, str], tuple[NodePath, dict[str, Any]]]  # by (name, in)


def operation_changes(comparison: Comparison) -> Iterator[Change]:
    """Yield the changes of all operations, and of the x- keys that they inherit."""
    old, new = _operations(comparison.old), _operations(comparison.new)
    for path in old.keys() - new.keys():
        yield breaking(path, "operation removed", "its callers get 404 or 405", removed=True)
    for path in new.keys() - old.keys():
        if requirements_of(comparison.new, new[path]):
            yield safe(path, "operation added", "no client calls it yet")
        else:
            reason = "anyone can call it without a token"
            yield security_breaking(path, "public operation added", reason)
    for path in old.keys() & new.keys():
        yield from _changes_of_one(path, old[path], new[path], comparison)
    yield from inherited_changes((), comparison)
    old_paths, new_paths = (mapping_at(side, "paths") for side in (comparison.old, comparison.new))
    for url_path in old_paths.keys() & new_paths.keys():
        yield from inherited_changes(("paths", url_path), comparison)


def _operations(document: Any) -> dict[NodePath, dict[str, Any]]:
    return {path: operation for path, _, operation in each_operation(document)}


def _changes_of_one(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], comparison: Comparison
) -> Iterator[Change]:
    before, after = old.get("operationId"), new.get("operationId")
    if before != after:
        summary = f"operationId changed from `{before}` to `{after}`"
        reason = "generated clients rename the function"
        yield breaking((*path, "operationId"), summary, reason)
    yield from requirement_changes(
        path, requirements_of(comparison.old, old), requirements_of(comparison.new, new)
    )
    yield from _parameter_changes(path, comparison)
    yield from _body_changes((*path, "requestBody"), old, new, comparison)
    yield from _response_changes((*path, "responses"), old, new, comparison)
    yield from inherited_changes(path, comparison)
    yield from own_changes(path, old, new)


def _parameter_changes(operation_path: NodePath, comparison: Comparison) -> Iterator[Change]:
    old = _parameters(comparison.old, operation_path)
    new = _parameters(comparison.new, operation_path)
    for (name, location), (path, _) in old.items():
        if (name, location) not in new:
            reason = "requests that send it get 400"
            yield breaking(path, f"parameter `{name}` removed", reason, removed=True)
    for (name, location), (path, parameter) in new.items():
        is_required = bool(parameter.get("required"))
        if (name, location) not in old:
            if is_required:
                summary = f"required parameter `{name}` added"
                yield breaking(path, summary, "requests without it get 400")
            else:
                yield safe(path, f"optional parameter `{name}` added", "clients can omit it")
            continue
        _, before = old[name, location]
        if is_required and not before.get("required"):
            summary = f"parameter `{name}` is now required"
            yield breaking(path, summary, "requests without it get 400")
        elif before.get("required") and not is_required:
            summary = f"parameter `{name}` is now optional"
            yield safe(path, summary, "clients can still send it")
        schema_before, schema_after = before.get("schema", {}), parameter.get("schema", {})
        yield from schema_changes(
            (*path, "schema"), schema_before, schema_after, comparison, is_request=True
        )


def _parameters(document: Any, operation_path: NodePath) -> Parameters:
    """Return the parameters of an operation, each with the path of its definition."""
    _, url_path, method = operation_path
    item = mapping_at(document, "paths", str(url_path))
    parameters: Parameters = {}
    for owner_path, owner in (
        (operation_path[:-1], item),
        (operation_path, mapping_at(item, str(method))),
    ):
        for n, entry in enumerate(list_at(owner, "parameters")):
            path: NodePath = (*owner_path, "parameters", n)
            ref = mapping_at(entry).get("$ref")
            if isinstance(ref, str):
                path = locate_ref(document, ref)[0] or path
            parameter = resolve(document, entry)
            parameters[str(parameter.get("name")), str(parameter.get("in"))] = path, parameter
    return parameters


def _body_changes(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], comparison: Comparison
) -> Iterator[Change]:
    before = resolve(comparison.old, old.get("requestBody"))
    after = resolve(comparison.new, new.get("requestBody"))
    was_required, is_required = bool(before.get("required")), bool(after.get("required"))
    if before and not after:
        reason = "the service no longer reads what clients send"
        yield breaking(path, "request body removed", reason, removed=True)
    elif after and not before and is_required:
        yield breaking(path, "required request body added", "requests without one get 400")
    elif after and not before:
        yield safe(path, "optional request body added", "clients can omit it")
    elif is_required and not was_required:
        yield breaking(path, "request body is now required", "requests without one get 400")
    elif was_required and not is_required:
        yield safe(path, "request body is now optional", "clients can still send it")
    if before and after:
        yield from _content_changes(path, before, after, comparison, is_request=True)


def _response_changes(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], comparison: Comparison
) -> Iterator[Change]:
    before, after = mapping_at(old, "responses"), mapping_at(new, "responses")
    for code in before.keys() - after.keys():
        summary = f"response {code} removed"
        if code.startswith("2"):
            yield breaking((*path, code), summary, "clients expect it", removed=True)
        else:
            reason = "the operation no longer returns it"
            yield safe((*path, code), summary, reason, removed=True)
    for code in after.keys() - before.keys():
        summary = f"response {code} added"
        if code.startswith("2"):
            yield breaking((*path, code), summary, "clients do not expect it")
        else:
            # RFC 9110, section 15: a client treats an unknown status as the x00 of its class.
            yield safe((*path, code), summary, "clients know its class")
    for code in before.keys() & after.keys():
        here = (*path, code)
        old_response = resolve(comparison.old, before[code])
        new_response = resolve(comparison.new, after[code])
        yield from _header_changes(
            (*here, "headers"),
            mapping_at(old_response, "headers"),
            mapping_at(new_response, "headers"),
            comparison,
        )
        yield from _content_changes(here, old_response, new_response, comparison, is_request=False)


def _header_changes(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], comparison: Comparison
) -> Iterator[Change]:
    for name in old.keys() - new.keys():
        summary = f"response header `{name}` removed"
        yield breaking((*path, name), summary, "clients may read it", removed=True)
    for name in old.keys() & new.keys():
        before, after = resolve(comparison.old, old[name]), resolve(comparison.new, new[name])
        schemas = mapping_at(before, "schema"), mapping_at(after, "schema")
        yield from schema_changes((*path, name, "schema"), *schemas, comparison, is_request=False)


def _content_changes(
    path: NodePath,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    comparison: Comparison,
    *,
    is_request: bool,
) -> Iterator[Change]:
    before, after = mapping_at(old, "content"), mapping_at(new, "content")
    for media_type in before.keys() - after.keys():
        here = (*path, "content", media_type)
        reason = "requests that send it get 415" if is_request else "clients may expect it"
        yield breaking(here, f"media type `{media_type}` removed", reason, removed=True)
    for media_type in after.keys() - before.keys():
        here = (*path, "content", media_type)
        yield safe(here, f"media type `{media_type}` added", "clients choose the media type")
    for media_type in before.keys() & after.keys():
        here = (*path, "content", media_type, "schema")
        schema_before = mapping_at(before, media_type).get("schema", {})
        schema_after = mapping_at(after, media_type).get("schema", {})
        yield from schema_changes(
            here, schema_before, schema_after, comparison, is_request=is_request
        )
