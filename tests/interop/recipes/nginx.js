// Checks an access token of Sealwright by its signature: 204 good, 401 bad, 503 no keys to be had.

const SKEW = 5; // seconds that clocks may differ
const RS256 = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' }; // all that njs 0.7 has of our algorithms
const object = (part) => JSON.parse(Buffer.from(part, 'base64url').toString());

// DER (X.690): a tag, a length, the bytes.
function der(tag, parts) {
    const body = Buffer.concat(parts);
    const size = body.length < 128 ? [body.length] : [0x82, body.length >> 8, body.length & 255];
    return Buffer.concat([Buffer.from([tag].concat(size)), body]);
}

// An INTEGER, which a first byte above 127 would make negative.
function integer(text) {
    const bytes = Buffer.from(text, 'base64url');
    return der(2, bytes[0] > 127 ? [Buffer.from([0]), bytes] : [bytes]);
}

// njs 0.7 takes no JWK, but a SubjectPublicKeyInfo (RFC 8017 §A.1.1).
function spki(jwk) {
    const rsa = der(0x30, [Buffer.from('06092a864886f70d0101010500', 'hex')]);
    return der(0x30, [rsa, der(3, [Buffer.from([0]), der(0x30, [integer(jwk.n), integer(jwk.e)])])]);
}

async function key(r, kid) {
    const places = ['/_jwks', '/_jwks_new'];
    for (let i = 0; i < places.length; i++) {
        const reply = await r.subrequest(places[i]);
        if (reply.status !== 200) {
            throw new Error(`JWKS: ${reply.status}`);
        }
        const found = JSON.parse(reply.responseText).keys.find((each) => each.kid === kid);
        if (found) {
            return found;
        }
    }
    return null;
}

async function good(r, parts) {
    const header = object(parts[0]);
    // RFC 9068 §4: an ID token is signed by the same keys, and is no access token.
    if (header.alg !== 'RS256' || header.crit !== undefined || !/^(application\/)?at\+jwt$/i.test(header.typ)) {
        return false;
    }
    const jwk = await key(r, header.kid);
    if (!jwk || jwk.alg !== 'RS256') {
        return false;
    }
    const imported = await crypto.subtle.importKey('spki', spki(jwk), RS256, false, ['verify']);
    const signature = Buffer.from(parts[2], 'base64url');
    if (!(await crypto.subtle.verify(RS256, imported, signature, Buffer.from(`${parts[0]}.${parts[1]}`)))) {
        return false;
    }
    const claims = object(parts[1]);
    const now = Date.now() / 1000;
    return claims.iss === r.variables.required_issuer
        && [].concat(claims.aud).includes(r.variables.required_audience)
        && typeof claims.exp === 'number' && now < claims.exp + SKEW
        && (claims.nbf === undefined || claims.nbf <= now + SKEW);
}

async function check(r) {
    const bearer = /^Bearer ([\w-]+\.[\w-]+\.[\w-]+)$/i.exec(r.headersIn.Authorization || '');
    try {
        if (bearer && (await good(r, bearer[1].split('.')))) {
            return r.return(204);
        }
    } catch (error) {
        r.error(`token: ${error.message}`);
        if (/^JWKS/.test(error.message)) {
            return r.return(503);
        }
    }
    r.headersOut['WWW-Authenticate'] = bearer ? 'Bearer error="invalid_token"' : 'Bearer';
    r.return(401);
}

export default { check };
