# A guest's token has the claims of the contract, and secured operations reject every other token.
status, signed_in = call("auth.guest")
check_status("auth.guest", 201, status, signed_in)
token = signed_in["access_token"]
payload = claims(token)
check(payload["iss"] == os.environ["ISSUER"], "wrong claim iss:", payload["iss"])
audience = payload["aud"] if isinstance(payload["aud"], list) else [payload["aud"]]
check(audience == [os.environ["AUDIENCE"]], "wrong claim aud:", payload["aud"])
lifetime = payload["exp"] - payload["iat"]
check(lifetime <= int(os.environ["LIFETIME"]), "the token is valid for", lifetime, "seconds")
check(TENANT in payload, "the claim", TENANT, "is missing")

for id, operation in OPERATIONS.items():
    if operation["secured"] and "{" not in operation["path"]:
        for invalid in (None, token[:-4] + "AAAA"):
            status, body = call(id, invalid)
            check_status(id, 401, status, body)

if "system.index" in OPERATIONS:
    status, index = call("system.index")
    served = index["contract"]
    check(served == os.environ["CONTRACT"], "the service uses another contract:", served)
print("signed in")
