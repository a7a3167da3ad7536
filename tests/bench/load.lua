-- What wrk sends (one thread: each has its own state). From the environment:
--   LOAD_BODIES          a file with one form body a line, sent in turn by POST; without it, GET
--   LOAD_AUTHORIZATION   the Authorization header
--   LOAD_COOKIE          the Cookie header
--   LOAD_COLLECT         a file that takes a token of every answer, one a line: LOAD_KIND, or access_token
--   LOAD_REFRESH         a file with one refresh token a line: each is rotated, and what comes of it in its turn
--   LOAD_STRANGERS       each request comes from another address, as X-Forwarded-For says
-- The last line printed is: RESULT requests microseconds p50 p99 errors (latencies in microseconds).

local bodies, sent = {}, 0

function init(_)
    wrk.headers["Authorization"] = os.getenv("LOAD_AUTHORIZATION")
    wrk.headers["Cookie"] = os.getenv("LOAD_COOKIE")
    local file = os.getenv("LOAD_BODIES")
    if file then
        wrk.method = "POST"
        wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
        for line in io.lines(file) do
            bodies[#bodies + 1] = line
        end
    end
    -- Few bodies are formatted once, so that the generator is not what is measured; many would not fit in memory.
    if #bodies <= 1000 then
        local ready = {}
        for i = 1, math.max(#bodies, 1) do
            ready[i] = wrk.format(nil, nil, nil, bodies[i])
        end
        function request()
            sent = sent + 1
            return ready[(sent - 1) % #ready + 1]
        end
    else
        function request()
            sent = sent + 1
            return wrk.format(nil, nil, nil, bodies[(sent - 1) % #bodies + 1])
        end
    end
    if os.getenv("LOAD_STRANGERS") then
        math.randomseed(os.time())
        function request()
            local part = function() return math.random(1, 254) end
            -- From 128 on: 127 is where the server's own proxies are.
            wrk.headers["X-Forwarded-For"] = string.format("%d.%d.%d.%d", math.random(128, 199), part(), part(), part())
            return wrk.format()
        end
    end
    local refresh = os.getenv("LOAD_REFRESH")
    if refresh then
        wrk.method = "POST"
        wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
        local tokens, first = {}, 1
        for line in io.lines(refresh) do
            tokens[#tokens + 1] = line
        end
        local last = #tokens
        function request()
            local token = tokens[first]
            tokens[first] = nil
            first = first + 1
            return wrk.format(nil, nil, nil, "grant_type=refresh_token&refresh_token=" .. (token or "none-left"))
        end
        function response(_, _, body)
            local token = body:match('"refresh_token"%s*:%s*"([^"]+)"')
            if token then
                last = last + 1
                tokens[last] = token
            end
        end
    end
    local collect = os.getenv("LOAD_COLLECT")
    if collect then
        local kind, out = os.getenv("LOAD_KIND") or "access_token", io.open(collect, "w")
        function response(_, _, body)
            local token = body:match('"' .. kind .. '"%s*:%s*"([^"]+)"')
            if token then
                out:write(token, "\n")
                out:flush()
            end
        end
    end
end

function done(summary, latency, _)
    local e = summary.errors
    local errors = e.connect + e.read + e.write + e.status + e.timeout
    io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
        latency:percentile(99), errors))
end
