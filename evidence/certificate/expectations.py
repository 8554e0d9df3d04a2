"""What a single response must be: its status, and whose data it may contain."""

from collections.abc import Iterator

from evidence.certificate.actors import World
from evidence.certificate.attack_vectors import Location, Probe
from evidence.certificate.matrix import UNAUTHENTICATED, Identity, Plan
from evidence.certificate.operations import returns_text, success_codes
from evidence.certificate.results import Request, Response


def response_issues(
    world: World,
    plan: Plan,
    identity: Identity,
    probe: Probe,
    request: Request,
    response: Response,
) -> Iterator[str]:
    """Yield what is wrong with a response, without regard to the control response."""
    yield from _status_issues(plan, identity, probe, response)
    received = response.text.lower()
    received += " ".join(value for _, value in response.headers).lower()
    sent = _sent_text(request)
    for tenant in world.other_tenants(identity):
        for marker in sorted(tenant.markers):
            if marker.lower() in received and marker.lower() not in sent:
                yield f"the response contains a value of the {tenant.name}: {marker}"
                break
    is_own_read = identity is Identity.OWN and request.method == "GET" and not plan.is_public
    if is_own_read and response.status == 200 and returns_text(plan.operation):
        own = {*world.victim.markers, *world.victim.ids.values()}
        if not any(marker.lower() in received for marker in own):
            yield "the response contains none of the tenant's own values"


def expected_statuses(plan: Plan, identity: Identity, probe: Probe) -> set[int] | None:
    """Return the correct statuses; None if only the control response decides."""
    is_own = identity is Identity.OWN
    success = success_codes(plan.operation)
    if is_own and plan.has_scarce_key:
        success |= {409}
    if identity in UNAUTHENTICATED and not plan.is_public:
        return {401}
    if probe.is_malformed:
        return {400}
    match probe.location:
        case Location.PATH if not plan.is_public:
            return success if is_own else {404}
        case Location.BODY if plan.operation.body is not None:
            if not probe.is_declared:
                return {400}
            return success if is_own else {404}
        case Location.QUERY | Location.CURSOR if not probe.is_declared:
            return {400}
        case Location.HEADER if is_own and probe.names == ("If-Match",):
            return success | {412}
        case Location.NAME if is_own:
            return success | {409}
    return success if is_own or plan.is_public else None


def _status_issues(
    plan: Plan, identity: Identity, probe: Probe, response: Response
) -> Iterator[str]:
    expected = expected_statuses(plan, identity, probe)
    declared = {int(code) for code in plan.operation.responses if code.isdigit()}
    if expected is not None and response.status not in expected:
        statuses = " or ".join(map(str, sorted(expected)))
        yield f"status {response.status}, expected {statuses}"
    elif response.status not in declared:
        yield f"status {response.status}, which the contract does not declare"
    if response.status == 401 and "www-authenticate" not in dict(response.headers):
        yield "401 without WWW-Authenticate"


def _sent_text(request: Request) -> str:
    """Return everything that a response may repeat, which is all but the token."""
    headers = [value for name, value in request.headers if name != "Authorization"]
    body = (request.body or b"").decode(errors="replace")
    return f"{request.target} {' '.join(headers)} {request.body!r} {body}".lower()
