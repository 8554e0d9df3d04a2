-- Sends requests for the lines `token org_id project_id` of a file, in turn.
-- Arguments: file, workload (a value of load.Workload), a prefix that makes names unique.
local targets, sent, workload, prefix = {}, 0, nil, nil

function init(arguments)
  workload, prefix = arguments[2], arguments[3]
  for line in io.lines(arguments[1]) do
    local token, org, project = line:match("(%S+) (%S+) (%S+)")
    local path, headers = "/health", {}
    if workload ~= "health" then
      headers["Authorization"] = "Bearer " .. token
      path = "/orgs/" .. org .. "/projects"
    end
    if workload == "get-one" then path = path .. "/" .. project end
    if workload == "get-20" then path = path .. "?limit=20" end
    targets[#targets + 1] = {path = path, headers = headers}
    if workload ~= "post" then
      targets[#targets].request = wrk.format("GET", path, headers)
    else
      headers["Content-Type"] = "application/json"
    end
  end
end

function request()
  sent = sent + 1
  local target = targets[(sent - 1) % #targets + 1]
  if target.request then return target.request end
  return wrk.format("POST", target.path, target.headers, '{"name": "' .. prefix .. sent .. '"}')
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "max": %d, "errors": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
