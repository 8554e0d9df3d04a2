"""Changes of the deployment: the service and its environments."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from dev.breaking import change
from dev.breaking.change import Change, Comparison, Concern
from openapi.documents import NodePath, list_at, mapping_at

safe = partial(change.safe, concern=Concern.MANIFESTS)
breaking = partial(change.breaking, concern=Concern.MANIFESTS)
security_breaking = partial(change.security_breaking, concern=Concern.MANIFESTS)

DEFAULTS = {"exposure": "none"}  # of x-environment, as far as they matter here


def service_changes(comparison: Comparison) -> Iterator[Change]:
    """Yield the changes of `x-service`."""
    old, new = mapping_at(comparison.old, "x-service"), mapping_at(comparison.new, "x-service")
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        path: NodePath = ("x-service", key)
        summary, removed = _summary(key, old, new), key not in new
        if key == "source":
            reason = "whoever can write there decides what runs in the cluster"
            yield security_breaking(path, summary, reason, removed=removed)
        elif key in ("name", "port", "image"):
            yield breaking(path, summary, "running releases are replaced", removed=removed)
        else:
            yield safe(path, summary, "the generated manifests follow", removed=removed)


def environment_changes(comparison: Comparison) -> Iterator[Change]:
    """Yield the changes of the environments, which are matched by name."""
    old, new = _environments(comparison.old), _environments(comparison.new)
    for name, (path, _) in old.items():
        if name not in new:
            summary = f"environment `{name}` removed"
            yield breaking(path, summary, "its release is deleted", removed=True)
    for name, (path, server) in new.items():
        if name not in old:
            yield safe(path, f"environment `{name}` added", "nothing runs there yet")
        else:
            before, after = old[name][1], server
            yield from _url_changes(path, name, str(before.get("url")), str(after.get("url")))
            yield from _setting_changes(
                (*path, "x-environment"),
                name,
                DEFAULTS | mapping_at(before, "x-environment"),
                DEFAULTS | mapping_at(after, "x-environment"),
            )


def _environments(document: Any) -> dict[str, tuple[NodePath, dict[str, Any]]]:
    """Return path and server of each environment, by its name; a server without one by its URL."""
    return {
        str(mapping_at(server, "x-environment").get("name", server.get("url"))): (
            ("servers", n),
            server,
        )
        for n, server in enumerate(list_at(document, "servers"))
        if isinstance(server, dict)
    }


def _url_changes(path: NodePath, name: str, before: str, after: str) -> Iterator[Change]:
    here = (*path, "url")
    if before.startswith("https:") and not after.startswith("https:"):
        summary = f"environment `{name}` no longer uses TLS"
        yield security_breaking(here, summary, "tokens can be read in transit")
    elif before != after:
        summary = f"URL of environment `{name}` changed from {before} to {after}"
        yield breaking(here, summary, "clients still call the old URL")


def _setting_changes(
    path: NodePath, name: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Change]:
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        here = (*path, key)
        summary, removed = f"environment `{name}`: {_summary(key, old, new)}", key not in new
        if key == "exposure" and old.get(key) == "none":
            reason = "the service becomes reachable from outside the cluster"
            yield security_breaking(here, summary, reason)
        elif key == "docs" and new.get(key):
            summary = f"environment `{name}` now serves the API documentation"
            yield security_breaking(here, summary, "anyone can read it")
        elif key == "postgres" and not _networks(new) <= _networks(old):
            summary = f"environment `{name}` can reach more networks"
            yield security_breaking(here, summary, "so can an intruder in a pod")
        elif key in ("exposure", "namespace", "cluster"):
            yield breaking(here, summary, "its release moves", removed=removed)
        else:
            yield safe(here, summary, "the generated manifests follow", removed=removed)


def _summary(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = old.get(key), new.get(key)
    if key not in new:
        return f"{key} removed"
    if key not in old:
        return f"{key} added"
    if isinstance(before, dict | list) or isinstance(after, dict | list):
        return f"{key} changed"
    return f"{key} changed from `{before}` to `{after}`"


def _networks(environment: Mapping[str, Any]) -> set[str]:
    return {str(network) for network in list_at(environment.get("postgres"), "networks")}
