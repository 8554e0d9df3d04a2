"""What every test of the chart begins with: the contract's operations, and calls by their names."""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request

OPERATIONS = {operation["id"]: operation for operation in json.loads(os.environ["OPERATIONS"])}
TENANT = os.environ["TENANT"]
DEADLINE = time.monotonic() + 60


def call(id, token=None, body=None, **parameters):
    """Return status and body of an operation; waits while the service is not there yet."""
    operation = OPERATIONS[id]
    path = operation["path"]
    for name, value in parameters.items():
        path = path.replace("{" + name + "}", value)
    if body is None:
        body = operation["body"]
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if token:
        headers["Authorization"] = "Bearer " + token
    request = urllib.request.Request(
        os.environ["BASE_URL"] + path,
        data=json.dumps(body).encode() if body is not None else None,
        headers=headers,
        method=operation["method"],
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            status, answer = error.code, json.loads(error.read() or b"null")
            if status not in (429, 503) or time.monotonic() > DEADLINE:
                return status, answer
        except OSError as error:
            if time.monotonic() > DEADLINE:
                sys.exit(f"{operation['method']} {path}: {error}")
        time.sleep(1)


def demand(truth, *said):
    if not truth:
        sys.exit(" ".join(map(str, said)))


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def guest():
    """Sign in as a guest and create its organization; return token and tenant."""
    status, signed_in = call("auth.guest")
    demand(status == 201, "auth.guest answers", status, signed_in)
    token = signed_in["access_token"]
    status, created = call("orgs.create", token)
    demand(status == 201, "orgs.create answers", status, created)
    return token, created["id"]


def leave(token, tenant):
    if "orgs.delete" in OPERATIONS:
        call("orgs.delete", token, **{TENANT: tenant})


