"""Which functions the handler modules define; the modules are parsed, never imported."""

import ast
from dataclasses import dataclass
from pathlib import Path

from openapi.documents import function_name
from openapi.rules.messages import enumerate_names
from openapi.tables import METHOD_BY_VERB


@dataclass(frozen=True)
class HandlerModule:
    """The module with the handlers of one tag; `file` is as messages show it.

    `parse_error` is why the module is not Python.
    """

    file: str
    functions: frozenset[str] = frozenset()
    exists: bool = True
    parse_error: str | None = None


def parse_module(folder: Path, tag: str) -> HandlerModule:
    """Return the module of `tag` in `folder`."""
    file = f"{folder.name}/{tag}.py"
    try:
        body = ast.parse((folder / f"{tag}.py").read_bytes()).body
    except OSError:
        return HandlerModule(file, exists=False)
    except SyntaxError as error:
        return HandlerModule(file, parse_error=f"line {error.lineno}: {error.msg}")
    except ValueError as error:
        return HandlerModule(file, parse_error=str(error))
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return HandlerModule(file, frozenset(node.name for node in body if isinstance(node, functions)))


def missing_handler(module: HandlerModule, function: str, *, has_table: bool) -> str | None:
    """Return why `module` cannot handle an operation with `function`, or None if it can.

    The verbs of a table need no function: the service handles them.
    """
    if function in module.functions:
        return None
    is_generic = has_table and function in map(function_name, METHOD_BY_VERB)
    if is_generic and module.parse_error is None:
        return None
    verbs = enumerate_names(METHOD_BY_VERB, "and")
    hint = f"; only {verbs} need no handler" if has_table else ""
    if module.parse_error is not None:
        return f"{module.file} is not valid Python ({module.parse_error})"
    if not module.exists:
        return f"{module.file} does not exist; it must define `{function}`{hint}"
    return f"{module.file} has no function `{function}`{hint}"
