# A guest's token claims what the contract says, and nothing is served without one.
status, signed_in = call("auth.guest")
demand(status == 201, "auth.guest answers", status, signed_in)
found = claims(signed_in["access_token"])
demand(found["iss"] == os.environ["ISSUER"], "iss is", found["iss"])
audience = found["aud"] if isinstance(found["aud"], list) else [found["aud"]]
demand(audience == [os.environ["AUDIENCE"]], "aud is", found["aud"])
demand(found["exp"] - found["iat"] <= int(os.environ["LIFETIME"]), "lives too long", found)
demand(TENANT in found, "the token names no tenant")

for id, operation in OPERATIONS.items():
    if operation["secured"] and "{" not in operation["path"]:
        for token in (None, signed_in["access_token"][:-4] + "AAAA"):
            status, answer = call(id, token)
            demand(status == 401, id, "answers", status, answer, "to a token that is none")

if "system.index" in OPERATIONS:
    status, index = call("system.index")
    demand(index["contract"] == os.environ["CONTRACT"], "serves the contract", index["contract"])
print("signed in")
