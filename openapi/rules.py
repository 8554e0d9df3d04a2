"""The rules that a contract keeps to be served: each yields the places that break it, and why.

Nothing here knows of files or lines, and nothing raises for a malformed document: a rule passes
over what has not the shape it looks for, since `structure` reports that.
"""

import base64
import binascii
import builtins
import copy
import difflib
import itertools
import json
import keyword
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import quote, unquote

import jsonschema_rs

Place = tuple[str | int, ...]
Finding = tuple[Place, str]
Object = tuple[Place, str, dict[str, Any]]  # where it stands, its kind, itself

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
INHERITED = ("x-timeout", "x-rate-limit", "x-slo")
BOUNDED_FORMATS = ("uuid", "date-time", "date", "ipv4", "ipv6")
FORMATS = {
    **dict.fromkeys((*BOUNDED_FORMATS, "email", "uri", "byte"), "string"),
    **dict.fromkeys(("int32", "int64"), "integer"),
    **dict.fromkeys(("float", "double"), "number"),
}
DEEPEST, MOST = 200, 50_000  # levels and values that a $ref may unfold to

# What kind of object stands below which key of which kind: `[` a list of it, `{` a map of it by
# name, `*` any key but x- ones. All other kinds have no objects below them.
SHAPE = {
    kind: dict(child.split("=") for child in children.split())
    for kind, children in {
        "root": "info=info servers=[server paths=paths components=components tags=[tag"
        " externalDocs=docs",
        "info": "contact=contact license=license",
        "server": "variables={variable",
        "tag": "externalDocs=docs",
        "paths": "*=path",
        "path": f"servers=[server parameters=[parameter {'=operation '.join(METHODS)}=operation",
        "operation": "parameters=[parameter requestBody=body responses=responses"
        " callbacks={callback servers=[server externalDocs=docs",
        "callback": "*=path",
        "responses": "*=response",
        "response": "headers={header content={media links={link",
        "body": "content={media",
        "parameter": "schema=schema content={media examples={example",
        "header": "schema=schema content={media examples={example",
        "media": "schema=schema examples={example encoding={encoding",
        "encoding": "headers={header",
        "link": "server=server",
        "schema": "properties={schema additionalProperties=schema items=schema not=schema"
        " allOf=[schema anyOf=[schema oneOf=[schema discriminator=discriminator"
        " externalDocs=docs xml=xml",
        "security_scheme": "flows=flows",
        "flows": "*=flow",
        "components": "schemas={schema responses={response parameters={parameter"
        " examples={example requestBodies={body headers={header links={link"
        " securitySchemes={security_scheme callbacks={callback",
    }.items()
}


def check(
    document: dict[str, Any],
    openapi: dict[str, Any],
    extensions: dict[str, Any],
    handler_fault: Callable[[str, str], str | None],
) -> list[Finding]:
    """Return all that is wrong with a contract.

    `openapi` and `extensions` are JSON Schemas; `handler_fault(tag, function)` says what keeps
    that function from handling an operation.
    """
    objects = list(walk(document))
    broken = list(references(document, objects))
    found = [
        *broken,
        *paths(document),
        *schemas(objects),
        *parameters(document, objects),
        *security(document, objects),
        *operations(document, objects, handler_fault),
    ]
    known = {place for place, _ in found}
    found += [f for f in structure(document, objects, openapi, extensions) if f[0] not in known]
    if broken:  # no validator can be built on them
        return found
    unbuilt: list[Finding] = []
    found += examples(document, objects, unbuilt)
    return found or unbuilt


# Reading a document


def walk(document: dict[str, Any]) -> Iterator[Object]:
    """Yield every OpenAPI object in document order; a `$ref` is yielded, not followed."""
    stack: list[tuple[Place, str, Any]] = [((), "root", document)]
    while stack:
        place, kind, node = stack.pop()
        if isinstance(node, dict):
            yield place, kind, node
            if "$ref" not in node:
                stack.extend(reversed(list(_children(place, kind, node))))


def _children(place: Place, kind: str, node: dict[str, Any]) -> Iterator[tuple[Place, str, Any]]:
    shape = SHAPE.get(kind, {})
    for key, child in node.items():
        below = shape.get(key) or ("" if key.startswith("x-") else shape.get("*", ""))
        if below.startswith("["):
            yield from (((*place, key, i), below[1:], v) for i, v in enumerate(entries(node, key)))
        elif below.startswith("{"):
            yield from (((*place, key, k), below[1:], v) for k, v in table(child).items())
        elif below:
            yield (*place, key), below, child


def table(node: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping below `keys`, or an empty one where there is none."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def entries(node: Any, key: str) -> list[Any]:
    """Return the list at `key`, or an empty one where there is none."""
    found = node.get(key) if isinstance(node, dict) else None
    return found if isinstance(found, list) else []


def at(document: Any, place: Place) -> Any:
    """Return what stands at `place`. Raises `LookupError`."""
    for key in place:
        document = document[key]
    return document


def locate(document: Any, ref: str) -> tuple[Place, Any]:
    """Return the place that `ref` (`#/…`, RFC 6901) names, and what stands there.

    Raises `LookupError`.
    """
    place: Place = ()
    for part in ref.removeprefix("#/").split("/"):
        key: str | int = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            key = int(key) if re.fullmatch(r"[0-9]{1,6}", str(key)) else len(document)
        elif not isinstance(document, dict):
            raise LookupError(ref)
        place, document = (*place, key), document[key]
    return place, document


def resolve(document: Any, node: Any) -> dict[str, Any]:
    """Follow `$ref`s from `node` to an object; an empty one where they lead nowhere."""
    for _ in range(DEEPEST):
        if not isinstance(table(node).get("$ref"), str):
            return table(node)
        try:
            node = locate(document, node["$ref"])[1]
        except LookupError:
            break
    return {}


def deref(document: Any, node: Any, trail: frozenset[str] = frozenset()) -> Any:
    """Return a copy of `node` in which every `$ref` is replaced by what it names.

    Raises `ValueError` for a recursive schema, `LookupError` for a `$ref` that leads nowhere.
    """
    if isinstance(node, list):
        return [deref(document, item, trail) for item in node]
    if not isinstance(node, dict):
        return node
    ref = node.get("$ref")
    if not isinstance(ref, str):
        return {key: deref(document, child, trail) for key, child in node.items()}
    if ref in trail:
        raise ValueError(f"recursive schema: {ref}")
    return deref(document, locate(document, ref)[1], trail | {ref})


def each_operation(document: Any) -> Iterator[tuple[Place, dict[str, Any], dict[str, Any]]]:
    """Yield place, path item and operation, in document order."""
    for path, item in table(document, "paths").items():
        for method in table(item) if path.startswith("/") else ():
            if method in METHODS and isinstance(item[method], dict):
                yield ("paths", path, method), item, item[method]


def parameters_of(document: Any, place: Place) -> dict[tuple[str, str], tuple[Place, Any]]:
    """Return place and object of each parameter of the operation at `place`, by (name, in).

    The operation's own replace its path's (OpenAPI 3.0.3, Operation Object).
    """
    _, path, method = place
    item = table(document, "paths", str(path))
    found: dict[tuple[str, str], tuple[Place, Any]] = {}
    for owner, node in ((place[:-1], item), (place, item[str(method)])):
        for i, entry in enumerate(entries(node, "parameters")):
            parameter = resolve(document, entry)
            name, location = parameter.get("name"), parameter.get("in")
            if isinstance(name, str) and isinstance(location, str):
                found[name, location] = (*owner, "parameters", i), parameter
    return found


def in_force(document: Any, item: Any, operation: Any) -> dict[str, Any]:
    """Return the x- keys of an operation: those it inherits from root and path, and its own.

    A probe inherits no rate limit: the cluster would restart what it has asked too often.
    """
    inherited = {key: at[key] for at in (document, item) for key in INHERITED if key in at}
    if "x-probe" in operation:
        inherited.pop("x-rate-limit", None)
    return inherited | {key: v for key, v in operation.items() if key.startswith("x-")}


def function_of(verb: str) -> str:
    """Return the name of the function that handles `verb`: `list_` for list, `get` for get."""
    return f"{verb}_" if keyword.iskeyword(verb) or hasattr(builtins, verb) else verb


# Words


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _listed(words: Iterable[Any], join: str = "or") -> str:
    *first, last = (word if isinstance(word, str) else json.dumps(word) for word in words)
    return f"{', '.join(first)} {join} {last}" if first else last


def _nearest(word: Any, known: Iterable[Any]) -> str:
    words = sorted(w for w in known if isinstance(w, str))
    near = difflib.get_close_matches(word, words, 1) if isinstance(word, str) else []
    return f"; did you mean `{near[0]}`?" if near else ""


# Structure: the JSON Schemas of OpenAPI and of the x- keys


def structure(
    document: Any, objects: list[Object], openapi: dict[str, Any], extensions: dict[str, Any]
) -> Iterator[Finding]:
    validator = jsonschema_rs.Draft4Validator(openapi, validate_formats=False)
    for error in validator.iter_errors(document):
        yield from _causes(error, openapi, document)
    for reason in _crossed(table(document, "x-service", "scaling")):
        yield ("x-service", "scaling"), reason
    homes = extensions["properties"]
    own_words = jsonschema_rs.Draft202012Validator(extensions)
    for place, kind, node in objects:
        home = kind if kind in homes else "other"
        words = {home: {key: value for key, value in node.items() if key.startswith("x-")}}
        for error in own_words.iter_errors(words) if words[home] or not place else ():
            for inner, reason in _causes(error, extensions, words):
                right = [h for h in homes if inner[1:] and inner[1] in homes[h]["properties"]]
                if len(inner) == 2 and right and home not in right:
                    reason = f"stands in the wrong place: it belongs to {_listed(right)}"
                yield (*place, *inner[1:]), reason


def _causes(error: Any, schema: Any, instance: Any) -> Iterator[Finding]:
    """Yield what is behind an error; of a oneOf that fails, the faults of the branch meant."""
    kind = error.kind
    place, value = _site(error, instance)
    match kind.name:
        case "oneOf" | "anyOf" if any(kind.context):
            yield from _causes_of_branches(place, kind.context, schema, instance)
        case "additionalProperties":
            for step in error.schema_path[:-1]:
                schema = schema[step]
            known = [*table(schema, "properties")]
            known += re.findall("[a-z]{3,}", " ".join(table(schema, "patternProperties")))
            for key in kind.unexpected:
                yield (*place, key), f"unknown key{_nearest(key, known)}"
        case "required":
            yield place, f"lacks `{kind.property}`"
        case "type":
            scalar = kind.types == ["string"] and not isinstance(value, dict | list | None)
            hint = ": quote it" if scalar else ""
            yield place, f"must be {_listed(kind.types)}, not {_quoted(value)}{hint}"
        case "enum":
            yield place, _not_one_of(value, kind.options)
        case "not" if "required" in table(kind.schema):
            yield place, f"may not carry both {_listed(kind.schema['required'], 'and')}"
        case "pattern" if place == ("openapi",):
            yield place, f"only OpenAPI 3.0.x is served, not {_quoted(value)}"
        case _:
            yield place, error.message


def _causes_of_branches(
    place: Place, branches: list[list[Any]], schema: Any, instance: Any
) -> Iterator[Finding]:
    def was_meant(error: Any) -> bool:
        below = error.instance_path[len(place) :]
        if error.kind.name == "enum" and below:
            return below[-1] not in ("in", "type", "scheme")
        is_reference = error.kind.name == "required" and error.kind.property == "$ref"
        return not is_reference and (error.kind.name != "type" or bool(below))

    errors = [error for branch in branches for error in branch]
    likely = [branch for branch in branches if branch and all(map(was_meant, branch))]
    discriminators = [error for error in errors if error.kind.name == "enum"]
    if likely:
        for error in max(likely, key=lambda branch: max(len(e.instance_path) for e in branch)):
            yield from _causes(error, schema, instance)
    elif discriminators:
        where, value = _site(discriminators[0], instance)
        yield where, _not_one_of(value, [o for e in discriminators for o in e.kind.options])
    else:
        yield from _causes(errors[0], schema, instance)


def _site(error: Any, instance: Any) -> tuple[Place, Any]:
    place: Place = ()
    for step in error.instance_path:  # a key such as "200" arrives as a number, an empty one never
        key = str(step) if isinstance(instance, dict) else step
        try:
            place, instance = (*place, key), instance[key]
        except (LookupError, TypeError):
            break
    return place, instance


def _not_one_of(value: Any, options: list[Any]) -> str:
    return f"{_quoted(value)} is not {_listed(options)}{_nearest(value, options)}"


# References


def references(document: Any, objects: list[Object]) -> Iterator[Finding]:
    """Each `$ref` stands alone and leads, inside the document, to an object of its own kind."""
    kinds = {place: kind for place, kind, _ in objects}
    referable = {kind[1:] for kind in SHAPE["components"].values()}
    stack: list[tuple[Place, Any]] = [((), document)]
    while stack:
        place, node = stack.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node)
        stack += [((*place, k), v) for k, v in children if isinstance(v, dict | list)]
        ref = table(node).get("$ref")
        if not isinstance(ref, str):
            continue
        kind, here = kinds.get(place), (*place, "$ref")
        if kind not in referable:
            yield here, "no $ref may stand here"
            continue
        for key in node.keys() - {"$ref"}:
            yield (*place, key), "stands beside a $ref, which hides it"
        if not ref.startswith("#/"):
            yield here, f"external $ref {_quoted(ref)}: only `#/…` is followed"
            continue
        try:
            target = locate(document, ref)[0]
        except LookupError:
            yield here, f"$ref {_quoted(ref)} leads nowhere"
            continue
        if kinds.get(target) != kind:
            yield here, f"$ref {_quoted(ref)} leads to no {kind}"
    yield from _unfolding(document)


def _unfolding(document: Any) -> list[Finding]:
    """Find what cannot be unfolded: recursion, and references that multiply without bound."""
    found: list[Finding] = []
    weights: dict[Place, tuple[int, int]] = {}
    trail: set[Place] = set()

    def weight(place: Place, node: Any, level: int) -> tuple[int, int]:
        ref = table(node).get("$ref")
        if isinstance(ref, str):
            return weight_of(place, ref, level)
        count, depth = 1, 0
        children = table(node).items() if not isinstance(node, list) else enumerate(node)
        for key, child in children:
            inner_count, inner_depth = weight((*place, key), child, level + 1)
            count, depth = count + inner_count, max(depth, inner_depth)
        return count, depth + 1

    def weight_of(place: Place, ref: str, level: int) -> tuple[int, int]:
        try:
            target, inner = locate(document, ref)
        except LookupError:
            return 1, 1
        if target in trail:
            found.append(((*place, "$ref"), f"recursive schema: {_quoted(ref)} contains itself"))
            return 1, 1
        if target not in weights and level < DEEPEST:
            trail.add(target)
            weights[target] = weight(target, inner, level + 1)
            trail.remove(target)
        count, depth = weights.get(target, (0, DEEPEST))
        if count <= MOST and level + depth <= DEEPEST:
            return count, depth
        limit = f"{MOST} values or {DEEPEST} levels"
        found.append(((*place, "$ref"), f"$ref {_quoted(ref)} unfolds to more than {limit}"))
        return 1, 1

    weight((), document, 0)
    return found


# Paths, operations and their security


def paths(document: Any) -> Iterator[Finding]:
    """No two paths may match one request, unless one is the more literal throughout."""
    split = {p: p.split("/")[1:] for p in table(document, "paths") if p.startswith("/")}
    for path, segments in split.items():
        for segment in segments if path != "/" else ():
            if not re.fullmatch(r"\{[a-z][a-z0-9_]*\}|[A-Za-z0-9._~-]+", segment):
                reason = f"{_quoted(segment)} is neither a plain segment nor a {{parameter}}"
                yield ("paths", path), reason
    for first, second in itertools.combinations(split, 2):
        if len(split[first]) != len(split[second]):
            continue
        pairs = list(zip(split[first], split[second], strict=True))
        if all(a == b or "{" in a + b for a, b in pairs):
            wider = {"{" in a for a, b in pairs if ("{" in a) != ("{" in b)}
            if len(wider) != 1:  # neither is the more literal, or each is somewhere
                yield ("paths", second), f"a request could match this as well as {first}"


def operations(
    document: Any, objects: list[Object], handler_fault: Callable[[str, str], str | None]
) -> Iterator[Finding]:
    ids: dict[str, Place] = {}
    declared = [table(tag).get("name") for tag in entries(document, "tags")]
    for place, item, operation in each_operation(document):
        name, here = operation.get("operationId"), (*place, "operationId")
        if "operationId" not in operation:
            yield place, "lacks an operationId"
        elif isinstance(name, str):
            first = ids.setdefault(name, place)
            tag, _, verb = name.partition(".")
            if first != place:
                yield here, f"`{name}` is also the operationId of {'.'.join(map(str, first))}"
            if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\.[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
                yield here, f"{_quoted(name)} is not `tag.verb` in snake_case"
            elif tag not in entries(operation, "tags"):
                yield here, f"the operation has no tag `{tag}`"
            elif first == place and (fault := handler_fault(tag, function_of(verb))):
                yield here, fault
        for i, tag in enumerate(entries(operation, "tags")):
            if isinstance(tag, str) and tag not in declared:
                yield (*place, "tags", i), f"tag `{tag}` is not declared in the contract's tags"
        yield from _responses(document, place, item, operation)
        yield from _rate_limit(document, place, item, operation)
    for place, kind, node in objects:
        target = node.get("operationId")
        if kind == "link" and isinstance(target, str) and target not in ids:
            yield (*place, "operationId"), f"no operation `{target}`{_nearest(target, ids)}"


def _responses(document: Any, place: Place, item: Any, operation: Any) -> Iterator[Finding]:
    has_path_parameter = "{" in str(place[1])
    needed = {
        "400 413 431 500 503": True,
        "401": operation.get("security", document.get("security")),
        "404": has_path_parameter,
        "408 415": "requestBody" in operation,
        "429": "x-rate-limit" in in_force(document, item, operation),
    }
    if not isinstance(answers := operation.get("responses"), dict):
        return
    if not any(re.fullmatch("2[0-9][0-9]", code) for code in answers):
        yield (*place, "responses"), "lacks a 2xx response"
    codes = {code for some, condition in needed.items() if condition for code in some.split()}
    if missing := sorted(codes - answers.keys()):
        yield (*place, "responses"), f"lacks {_listed(missing, 'and')}"


def _rate_limit(document: Any, place: Place, item: Any, operation: Any) -> Iterator[Finding]:
    own = (*place, "x-rate-limit")
    if "x-rate-limit" in operation and "x-probe" in operation:
        yield own, "a probe has no limit: it asks for ever"
    limit = table(in_force(document, item, operation), "x-rate-limit")
    if limit.get("key") == "tenant" and not operation.get("security", document.get("security")):
        where = own if "x-rate-limit" in operation else place
        yield where, "a public operation has no tenant to count: write `key: client`"


def security(document: Any, objects: list[Object]) -> Iterator[Finding]:
    """Every operation names one requirement, or says `security: []`."""
    everywhere = document.get("security")
    if isinstance(everywhere, list):
        yield from _requirements(document, ("security",), everywhere)
    secured = False
    for place, _, operation in each_operation(document):
        own = operation.get("security", everywhere)
        secured = secured or bool(own)
        if "security" not in operation and not everywhere:
            yield place, "has no security and is not declared public: write `security: []`"
        elif "security" in operation and isinstance(own, list):
            yield from _requirements(document, (*place, "security"), own)
    tenants = 0
    for place, kind, scheme in objects:
        if kind == "security_scheme" and scheme.get("scheme") == "bearer":
            tenants += "x-token" in scheme and "x-tenant" in scheme
        elif kind == "security_scheme":
            for key in scheme.keys() & {"x-token", "x-tenant"}:
                yield (*place, key), "belongs to a scheme of type http, scheme bearer"
    if secured and tenants != 1:
        yield (
            ("components", "securitySchemes"),
            f"one bearer scheme carries x-token and x-tenant, not {tenants}",
        )


def _requirements(document: Any, place: Place, required: list[Any]) -> Iterator[Finding]:
    schemes = table(document, "components", "securitySchemes")
    if len(required) > 1:
        yield place, "lists alternatives: a token that one refuses could pass by another"
        return
    for name, scopes in (pair for entry in required for pair in table(entry).items()):
        if name not in schemes:
            yield (*place, 0, name), f"no security scheme `{name}`{_nearest(name, schemes)}"
        elif scopes and resolve(document, schemes[name]).get("type") in ("http", "apiKey"):
            yield (*place, 0, name), "only OAuth 2 and OpenID Connect know scopes: write []"
    if required == [{}]:
        yield place, "`{}` admits anyone: write `security: []`"


def parameters(document: Any, objects: list[Object]) -> Iterator[Finding]:
    for place, kind, node in objects:
        if kind == "parameter" and "$ref" not in node:
            if "schema" not in node:
                yield place, "needs a `schema`"
            elif (schema := resolve(document, node["schema"])) and "type" not in schema:
                yield (*place, "schema"), "the schema of a parameter needs a `type`"
        resolved = [resolve(document, entry) for entry in entries(node, "parameters")]
        names = Counter(_quoted([p.get("name"), p.get("in")]) for p in resolved if p)
        for name in (name for name, times in names.items() if times > 1):
            yield (*place, "parameters"), f"{name} is declared twice"
    for place, _, _ in each_operation(document):
        declared = parameters_of(document, place)
        template = set(re.findall(r"\{([^{}]*)\}", str(place[1])))
        for name in sorted(template - {name for name, where in declared if where == "path"}):
            yield place, f"path parameter `{name}` is not declared"
        for (name, where), (at, _) in declared.items():
            if where == "path" and name not in template:
                yield at, f"path parameter `{name}` does not occur in the path"


# Schemas and their examples


def schemas(objects: list[Object]) -> Iterator[Finding]:
    """Every schema says its type, is closed, and bounds what it lets in."""
    kinds = {place: kind for place, kind, _ in objects}
    for place, kind, node in objects:
        if kind != "schema" or "$ref" in node:
            continue
        of_parameter = kinds.get(place[:-1]) == "parameter"
        is_branch = isinstance(place[-1], int) or place[-1] == "not"
        if not of_parameter and not is_branch and not _is_typed(node):
            yield place, "lacks a `type`"
        yield from ((place, reason) for reason in _limits(node))
        if reason := _format_fault(node.get("format"), node.get("type")):
            yield (*place, "format"), reason
        if reason := _pattern_fault(node.get("pattern")):
            yield (*place, "pattern"), reason


def _is_typed(node: Any) -> bool:
    if not isinstance(node, dict) or "type" in node or "$ref" in node:
        return True  # what a $ref leads to is a schema, which says its own type
    all_of, any_of, one_of = (
        [_is_typed(branch) for branch in entries(node, key)] for key in ("allOf", "anyOf", "oneOf")
    )
    return any(all_of) or all(any_of or one_of or [False])


def _limits(node: dict[str, Any]) -> Iterator[str]:
    kind, rest = node.get("type"), node.get("additionalProperties", True)
    if (kind == "object" or "properties" in node) and rest is True:
        yield "is open: write `additionalProperties: false`"
    if rest is False:
        for name in entries(node, "required"):
            if isinstance(name, str) and name not in table(node, "properties"):
                yield f"requires `{name}`, which is none of its properties"
    if kind == "array":
        yield from (f"lacks `{key}`" for key in ("items", "maxItems") if key not in node)
    if kind == "string" and "enum" not in node:
        if "maxLength" not in node and node.get("format") not in BOUNDED_FORMATS:
            yield "lacks `maxLength`"
        if "pattern" not in node and "format" not in node:
            yield "lacks a `pattern`, an `enum` or a `format`"
    if kind in ("integer", "number") and "enum" not in node:
        yield from (f"lacks `{key}`" for key in ("minimum", "maximum") if key not in node)
    yield from _crossed(node)


def _crossed(node: dict[str, Any]) -> Iterator[str]:
    for noun in ("", "imum", "Length", "Items", "Properties"):
        low, high = node.get(f"min{noun}"), node.get(f"max{noun}")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield f"min{noun} is above max{noun}"


def _format_fault(name: Any, kind: Any) -> str | None:
    if isinstance(name, str) and name not in FORMATS:
        return f"unknown format {_quoted(name)}{_nearest(name, FORMATS)}"
    if isinstance(name, str) and kind != FORMATS[name]:
        return f"format {name} is one of type {FORMATS[name]}"
    return None


def _pattern_fault(pattern: Any) -> str | None:
    """Say what keeps a pattern from meaning one thing to Python's `re` and to Rust's engine."""
    if not isinstance(pattern, str):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
        validator = jsonschema_rs.Draft4Validator({"pattern": pattern})
    except (re.error, Warning, OverflowError, RecursionError) as error:
        return f"no regular expression of Python: {error}"
    except ValueError:
        return "no regular expression of ECMA 262, as JSON Schema wants"
    if not (pattern.startswith("^") and pattern.endswith("$")):
        return "is not anchored: write `^…$`"
    text = "a" * 8
    probes = (text[:n] + "\0" + text[:m] for n in range(9) for m in range(9))
    if any(validator.is_valid(probe) for probe in probes):
        return "lets NUL through, which PostgreSQL cannot store"
    return None


def examples(
    document: dict[str, Any], objects: list[Object], unbuilt: list[Finding]
) -> Iterator[Finding]:
    """Every example, default and enum value is valid against its schema.

    A schema that no validator can be built from goes to `unbuilt`: another rule has its cause.
    """
    base = "contract:///"
    try:
        registry = jsonschema_rs.Registry([(base, _as_draft4(document))], draft=4)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        unbuilt.append(((), f"no validator can be built: {error}"))
        return
    for place, kind, node in objects:
        if "$ref" in node or not (kind == "schema" or "schema" in node):
            continue
        owner = place if kind == "schema" else (*place, "schema")
        values = list(_values(document, place, kind, node))
        if not values:
            continue
        pointer = "/".join(quote(str(k).replace("~", "~0").replace("/", "~1")) for k in owner)
        try:
            validator = jsonschema_rs.Draft4Validator(
                {"$ref": f"{base}#/{pointer}"},
                registry=registry,
                validate_formats=True,
                formats={"uuid": _is_uuid, "byte": _is_base64},
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            unbuilt.append((owner, f"no validator can be built: {error}".splitlines()[0]))
            continue
        for where, value in values:
            for fault in validator.iter_errors(value):
                yield (*where, *_site(fault, value)[0]), f"not valid: {fault.message}"


def _values(document: Any, place: Place, kind: str, node: Any) -> Iterator[tuple[Place, Any]]:
    for key in ("example", "default") if kind == "schema" else ("example",):
        if key in node:
            yield (*place, key), node[key]
    for i, value in enumerate(entries(node, "enum") if kind == "schema" else ()):
        yield (*place, "enum", i), value
    for name, entry in table(node, "examples").items() if kind != "schema" else ():
        where: Place = (*place, "examples", name)
        if isinstance(ref := table(entry).get("$ref"), str):
            where, entry = locate(document, ref)
        if "value" in table(entry):
            yield (*where, "value"), entry["value"]


def _as_draft4(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with `nullable`, which JSON Schema lacks, spelt out."""
    spelt = copy.deepcopy(document)
    for _, kind, node in walk(spelt):
        if kind == "schema" and node.get("nullable") is True and isinstance(node.get("type"), str):
            node["type"] = [node["type"], "null"]
            if "enum" in node:
                node["enum"] = [*entries(node, "enum"), None]
    return spelt


def _is_uuid(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text))


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
