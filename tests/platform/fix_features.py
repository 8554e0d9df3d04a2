"""The optional features of the chart: values that enable and disable each of them."""

from typing import Any

from codegen.overrides import merged
from tests.platform.fix_chart import Manifest, rendered

PEER = [{"ipBlock": {"cidr": "10.1.2.0/24"}}]
GATEWAY = {"kind": "gateway", "host": "h.example", "edge": {"name": "g", "namespace": "edge"}}
# Optional features: values that enable and disable them, and text present only when enabled.
FEATURES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "scaling": ({"scaling": {"enabled": True}}, {"scaling": {"enabled": False}}, "averageUtil"),
    "replicas": ({"replicas": 2}, {"replicas": 1}, "PodDisruptionBudget"),
    "ingress": ({"exposure": {**GATEWAY, "kind": "ingress"}}, {}, "kind: Ingress"),
    "gateway": ({"exposure": GATEWAY}, {}, "HTTPRoute"),
    "tls": (
        {"exposure": {**GATEWAY, "kind": "ingress", "tls": True, "issuer": "letsencrypt"}},
        {"exposure": {**GATEWAY, "kind": "ingress"}},
        "cluster-issuer",
    ),
    "docs": (
        {"docs": {"enabled": True}, "exposure": GATEWAY},
        {"docs": {"enabled": False}, "exposure": GATEWAY},
        "/openapi.json",
    ),
    "bootstrap": ({"secrets": {"bootstrap": True}}, {}, "RoleBinding"),
    "cloudnative-pg": ({"postgres": {"mode": "cloudnative-pg"}}, {}, "kind: Cluster"),
    "pooler": (
        {"postgres": {"mode": "cloudnative-pg", "pooler": {"enabled": True}}},
        {"postgres": {"mode": "cloudnative-pg"}},
        "kind: Pooler",
    ),
    "backup": (
        {
            "postgres": {
                "mode": "cloudnative-pg",
                "backup": {"enabled": True, "snapshotClass": "fast"},
                "storage": {"class": "ssd"},
                "parameters": {"work_mem": "8MB"},
            }
        },
        {"postgres": {"mode": "cloudnative-pg"}},
        "ScheduledBackup",
    ),
    "redis": (
        {"redis": {"enabled": True, "secret": "redis", "to": PEER}},
        {},
        "REDIS_URL",
    ),
    "tracing": (
        {"tracing": {"enabled": True, "endpoint": "http://otel:4318", "to": PEER}},
        {},
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "metrics": ({"metrics": {"enabled": True}}, {}, "ServiceMonitor"),
    "alerts": (
        {"metrics": {"enabled": True}},
        {"metrics": {"enabled": True, "alerts": False}},
        "PrometheusRule",
    ),
    "dashboard": (
        {"metrics": {"enabled": True}},
        {"metrics": {"enabled": True, "dashboard": False}},
        "grafana_dashboard",
    ),
    "network": ({"network": {"enabled": True}}, {"network": {"enabled": False}}, "NetworkPolicy"),
    "tests": ({"tests": {"enabled": True}}, {"tests": {"enabled": False}}, "helm.sh/hook"),
    "tests after sync": ({"tests": {"afterSync": True}}, {}, "PostSync"),
    "digest": ({"image": {"digest": f"sha256:{'0' * 64}"}}, {}, "@sha256:"),
    "placement": (
        {
            "placement": {
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "a", "operator": "Exists"}],
                "priorityClassName": "high",
            },
            "image": {"pullSecrets": [{"name": "registry"}]},
        },
        {},
        "priorityClassName",
    ),
    "settings": ({"settings": {"CORS_ORIGINS": "https://app.example"}}, {}, "CORS_ORIGINS"),
}
BASE: dict[str, Any] = {"postgres": {"to": PEER}}


def rendered_with(values: dict[str, Any]) -> list[Manifest]:
    return rendered(merged(BASE, values))
