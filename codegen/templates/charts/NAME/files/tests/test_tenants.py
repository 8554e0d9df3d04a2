# A resource of another tenant gets the same response as one that does not exist.
import re
import uuid

token, tenant = guest_with_organization()
other_token, other_tenant = guest_with_organization()


def comparable(problem):
    """Return a problem without the members that differ between any two responses."""
    members = dict(problem or {})
    for key in ("request_id", "instance"):
        members.pop(key, None)
    return members


def create_for_other_tenant(operation):
    body = dict(operation["body"] or {}, name=str(uuid.uuid4()))
    status, resource = call(operation["id"], other_token, body, **{TENANT: other_tenant})
    check_status(operation["id"], 201, status, resource)
    return resource["id"]


tried = 0
for id, operation in OPERATIONS.items():
    names = re.findall(r"\{(\w+)\}", operation["path"])
    if TENANT not in names:
        continue
    ids = {TENANT: other_tenant}
    collection = operation["path"].rpartition("/{")[0]
    create = [o for o in OPERATIONS.values() if o["method"] == "POST" and o["path"] == collection]
    for name in names[1:]:
        if create and name == names[-1]:
            ids[name] = create_for_other_tenant(create[0])
        else:
            ids[name] = str(uuid.uuid4())
    status, foreign = call(id, token, **ids)
    check_status(id, 404, status, foreign)
    absent = call(id, token, **{name: str(uuid.uuid4()) for name in names})[1]
    same = comparable(foreign) == comparable(absent)
    check(same, id, "reveals that a resource exists:", foreign, "instead of", absent)
    tried += 1
check(tried, "no operation belongs to a tenant")
delete_organization(token, tenant)
delete_organization(other_token, other_tenant)
print("tried to access another tenant with", tried, "operations")
