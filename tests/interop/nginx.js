// Asks Sealwright whether the request's bearer token is active, for this audience and with this scope.
// Everything that is not a clear yes is a refusal: 401 bad token, 403 not enough scope, 503 nobody could be asked.

function refuse(r, status, error) {
    r.headersOut['WWW-Authenticate'] = error ? `Bearer error="${error}"` : 'Bearer';
    r.return(status);
}

async function check(r) {
    // RFC 6750 §2.1; the characters of a token keep it from being read as anything else in the form below.
    const bearer = /^Bearer ([A-Za-z0-9._~+\/-]+=*)$/i.exec(r.headersIn.Authorization || '');
    if (!bearer) {
        return refuse(r, 401, '');
    }
    const reply = await r.subrequest('/_introspect', {
        method: 'POST',
        body: `token=${encodeURIComponent(bearer[1])}&token_type_hint=access_token`,
    });
    if (reply.status !== 200) {
        r.error(`introspection answered ${reply.status}`);
        return r.return(503);
    }
    const token = JSON.parse(reply.responseText);
    const audience = [].concat(token.aud || []);
    if (token.active !== true || !audience.includes(r.variables.required_audience)) {
        return refuse(r, 401, 'invalid_token');
    }
    if (!(token.scope || '').split(' ').includes(r.variables.required_scope)) {
        return refuse(r, 403, 'insufficient_scope');
    }
    r.headersOut['X-Token-Client'] = token.client_id;
    return r.return(204);
}

export default { check };
