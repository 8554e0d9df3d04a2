"""Prefix of every chart test: the operations of the contract, and calls by operationId."""

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
    """Return (status, body) of an operation; retry until the deadline while it is unavailable."""
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
            status, problem = error.code, json.loads(error.read() or b"null")
            if status not in (429, 503) or time.monotonic() > DEADLINE:
                return status, problem
        except OSError as error:
            if time.monotonic() > DEADLINE:
                sys.exit(f"{operation['method']} {path}: {error}")
        time.sleep(1)


def check(condition, *message):
    """Fail the test with a message unless the condition is true."""
    if not condition:
        sys.exit(" ".join(map(str, message)))


def check_status(id, expected, status, body):
    check(status == expected, id, "responded with", status, body, "instead of", expected)


def claims(token):
    """Return the claims of a JWT, without verifying it."""
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def guest_with_organization():
    """Sign in as a guest and create an organization; return (token, tenant)."""
    status, signed_in = call("auth.guest")
    check_status("auth.guest", 201, status, signed_in)
    token = signed_in["access_token"]
    status, organization = call("orgs.create", token)
    check_status("orgs.create", 201, status, organization)
    return token, organization["id"]


def delete_organization(token, tenant):
    if "orgs.delete" in OPERATIONS:
        call("orgs.delete", token, **{TENANT: tenant})


