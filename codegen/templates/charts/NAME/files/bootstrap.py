"""Create the Secrets that are missing. The Job cannot read or change existing ones."""

import base64
import json
import os
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.request

API = "/run/api"
NAMESPACE = os.environ["NAMESPACE"]


def create_secret(name, kind, values, labels):
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    host = f"[{host}]" if ":" in host else host
    port = os.environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    with open(f"{API}/token") as token:
        authorization = "Bearer " + token.read()
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "type": kind,
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in values.items()},
    }
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/namespaces/{NAMESPACE}/secrets",
        data=json.dumps(secret).encode(),
        headers={"Authorization": authorization, "Content-Type": "application/json"},
        method="POST",
    )
    context = ssl.create_default_context(cafile=f"{API}/ca.crt")
    try:
        with urllib.request.urlopen(request, timeout=20, context=context):
            print(f"{name}: created")
    except urllib.error.HTTPError as error:
        if error.code != 409:
            sys.exit(f"{name}: the API server responded with {error.code}")
        print(f"{name}: already exists")


def create_role_secret(name, user, host):
    """Create the Secret of a PostgreSQL role, in the form CloudNativePG and the service expect."""
    password, database = secrets.token_urlsafe(32), os.environ["DATABASE"]
    url = f"postgresql://{user}:{password}@{host}:5432/{database}?sslmode=require"
    values = {"username": user, "password": password, "url": url}
    create_secret(name, "kubernetes.io/basic-auth", values, {"cnpg.io/reload": "true"})


# The file name of a signing key is its activation time; a minute ago allows for clock skew.
key = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 60))
create_secret(os.environ["SIGNING_NAME"], "Opaque", {key: secrets.token_hex(32)}, {})
if "DATABASE" in os.environ:
    create_role_secret(os.environ["SERVING_NAME"], "covenant_app", os.environ["SERVING_HOST"])
    create_role_secret(os.environ["OWNER_NAME"], "covenant_owner", os.environ["OWNER_HOST"])
