"""Renders the chart and the Argo CD manifests from the contract."""
