"""A service with an admin port, and the metrics that it exposes there."""

import re
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.platform.fix_service import Service


@dataclass(frozen=True)
class MonitoredService:
    """A running service and its admin port."""

    service: Service
    admin_port: int

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def text(self) -> str:
        """Return the metrics as they are scraped."""
        response = httpx.get(f"{self.admin_url}/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return response.text

    def samples(self) -> dict[str, float]:
        """Return {"name|label value|…": value}; labels are sorted by name."""
        return {
            sample.name + "".join(f"|{v}" for _, v in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }

    def families(self) -> set[str]:
        """Return the names of the service's own metrics."""
        return set(re.findall(r"^# TYPE (covenant_\S+)", self.text(), re.MULTILINE))
