"""What changes for the manifests: the service and its environments."""

from collections.abc import Iterator
from typing import Any

from dev.breaking.change import Change, Pair, breaking, safe, security
from openapi.documents import NodePath, list_at, mapping_at


def service(pair: Pair) -> Iterator[Change]:
    old, new = mapping_at(pair.old, "x-service"), mapping_at(pair.new, "x-service")
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        here: NodePath = ("x-service", key)
        if key == "source":
            reason = "who writes there decides what runs in the cluster"
            yield security(here, "manifests", "another source", reason, key not in new)
        elif key in ("name", "port", "image"):
            yield breaking(here, "manifests", f"another {key}", "running releases are replaced")
        else:
            yield safe(here, "manifests", f"another {key}", "the manifests follow", key not in new)


def servers(pair: Pair) -> Iterator[Change]:
    old, new = _environments(pair.old), _environments(pair.new)
    for name, (place, _) in old.items():
        if name not in new:
            yield breaking(
                place, "manifests", f"environment {name} is gone", "its release goes", True
            )
    for name, (place, server) in new.items():
        if name not in old:
            yield safe(place, "manifests", f"a new environment {name}", "nothing runs there yet")
        else:
            yield from _environment(place, name, old[name][1], server)


def _environments(document: Any) -> dict[str, tuple[NodePath, dict[str, Any]]]:
    return {
        str(mapping_at(server, "x-environment").get("name", server.get("url"))): (
            ("servers", n),
            server,
        )
        for n, server in enumerate(list_at(document, "servers"))
        if isinstance(server, dict)
    }


def _environment(place: NodePath, name: str, old: Any, new: Any) -> Iterator[Change]:
    was, now = str(old.get("url")), str(new.get("url"))
    if was.startswith("https:") and not now.startswith("https:"):
        yield security((*place, "url"), "manifests", f"{name} without TLS", "tokens are readable")
    elif was != now:
        yield breaking(
            (*place, "url"), "manifests", f"{name} at another URL", "clients call the old"
        )
    before, after = mapping_at(old, "x-environment"), mapping_at(new, "x-environment")
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        here = (*place, "x-environment", key)
        if key == "exposure" and before.get(key) == "none":
            yield security(here, "manifests", f"{name} is exposed", "the outside reaches it")
        elif key == "docs" and after.get(key):
            yield security(here, "manifests", f"{name} shows its docs", "anyone may read them")
        elif key == "postgres" and _wider(before.get(key), after.get(key)):
            yield security(
                here, "manifests", f"{name} may reach more networks", "so may an intruder"
            )
        elif key in ("exposure", "namespace", "cluster"):
            yield breaking(here, "manifests", f"another {key} of {name}", "its release moves")
        else:
            yield safe(
                here,
                "manifests",
                f"another {key} of {name}",
                "the manifests follow",
                key not in after,
            )


def _wider(old: Any, new: Any) -> bool:
    return not set(list_at(new, "networks")) <= set(list_at(old, "networks"))
