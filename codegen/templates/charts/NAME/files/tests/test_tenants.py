# What is another tenant's answers exactly like what does not exist.
import re
import uuid

token, mine = guest()
other_token, other = guest()


def comparable(answer):
    kept = dict(answer or {})
    for key in ("request_id", "instance"):
        kept.pop(key, None)
    return kept


crossed = 0
for id, operation in OPERATIONS.items():
    names = re.findall(r"\{(\w+)\}", operation["path"])
    if TENANT not in names:
        continue
    ids = {TENANT: other}
    collection = operation["path"].rpartition("/{")[0]
    makers = [o for o in OPERATIONS.values() if o["method"] == "POST" and o["path"] == collection]
    for name in names[1:]:
        if makers and name == names[-1]:
            body = dict(makers[0]["body"] or {}, **({"name": str(uuid.uuid4())}))
            status, made = call(makers[0]["id"], other_token, body, **{TENANT: other})
            demand(status == 201, makers[0]["id"], "answers", status, made)
            ids[name] = made["id"]
        else:
            ids[name] = str(uuid.uuid4())
    crossing = call(id, token, **ids)
    absent = call(id, token, **{name: str(uuid.uuid4()) for name in names})
    demand(crossing[0] == 404, id, "answers", crossing, "for another tenant")
    demand(comparable(crossing[1]) == comparable(absent[1]), id, "tells what exists:", crossing)
    crossed += 1
demand(crossed, "no operation belongs to a tenant")
leave(token, mine)
leave(other_token, other)
print("tried to cross tenants with", crossed, "operations")
