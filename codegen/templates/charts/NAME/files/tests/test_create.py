# One token is enough for the whole flow: guest, organization, and one resource of every kind in it.
token, tenant = guest_with_organization()
created = 0
for id, operation in OPERATIONS.items():
    if operation["method"] == "POST" and operation["path"].count("{") == 1:
        if "{" + TENANT + "}" in operation["path"]:
            status, body = call(id, token, **{TENANT: tenant})
            check_status(id, 201, status, body)
            created += 1
if "orgs.list" in OPERATIONS:
    status, page = call("orgs.list", token)
    listed = [organization["id"] for organization in page["items"]]
    check(listed == [tenant], "orgs.list returned", listed, "instead of", [tenant])
delete_organization(token, tenant)
print("created an organization and", created, "resources in it")
