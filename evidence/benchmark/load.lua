-- One request after the other from a file of lines `token org_id project_id`, in turn.
-- Arguments: file, workload (r, l, w, h), a word that makes names unique.
local targets, at, workload, word = {}, 0, nil, nil

function init(arguments)
  workload, word = arguments[2], arguments[3]
  for line in io.lines(arguments[1]) do
    local token, org, project = line:match("(%S+) (%S+) (%S+)")
    local path, method, body = "/health", "GET", nil
    local headers = {}
    if workload ~= "h" then
      headers["Authorization"] = "Bearer " .. token
      path = "/orgs/" .. org .. "/projects"
    end
    if workload == "r" then path = path .. "/" .. project end
    if workload == "l" then path = path .. "?limit=20" end
    targets[#targets + 1] = {path = path, headers = headers}
    if workload ~= "w" then
      targets[#targets].request = wrk.format("GET", path, headers)
    else
      headers["Content-Type"] = "application/json"
    end
  end
end

function request()
  at = at + 1
  local target = targets[(at - 1) % #targets + 1]
  if target.request then return target.request end
  return wrk.format("POST", target.path, target.headers, '{"name": "' .. word .. at .. '"}')
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "max": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
