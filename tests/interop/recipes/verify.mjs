// Verifies Sealwright's access tokens with what Node has built in (18 or later).
//
// node verify.mjs ISSUER AUDIENCE    reads a token a line; prints `ok SUBJECT` or `no REASON` for each.
import { createPublicKey, verify } from 'node:crypto';
import { createInterface } from 'node:readline';

// What your API's tokens are signed with, and the digest of each.
const ALGORITHMS = new Map([['EdDSA', null], ['RS256', 'sha256']]);
const SKEW = 5; // seconds that clocks may differ
const GAP = 5; // seconds between two fetches at least, however many tokens name keys that nobody knows
const seconds = () => performance.now() / 1000;
const object = (part) => JSON.parse(Buffer.from(part, 'base64url').toString());

function must(holds, what) {
    if (!holds) throw new Error(what);
}

class Verifier {
    #keys = new Map();
    #until = 0;
    #asked = -GAP;

    constructor(issuer, audience) {
        Object.assign(this, { issuer, audience });
    }

    /** The claims of a good token; throws for every other. */
    async verify(token) {
        const parts = token.split('.');
        must(parts.length === 3 && parts.every((part) => /^[\w-]+$/.test(part)), 'form');
        const header = object(parts[0]);
        // RFC 9068 §4: an ID token is signed by the same keys, and is no access token.
        must(/^(application\/)?at\+jwt$/i.test(header.typ), 'typ');
        must(ALGORITHMS.has(header.alg) && header.crit === undefined, 'alg');
        const jwk = await this.#key(header.kid);
        must(jwk && jwk.alg === header.alg, 'kid');
        const key = createPublicKey({ key: jwk, format: 'jwk' });
        const signed = Buffer.from(`${parts[0]}.${parts[1]}`);
        must(verify(ALGORITHMS.get(header.alg), signed, key, Buffer.from(parts[2], 'base64url')), 'signature');
        const claims = object(parts[1]);
        const now = Date.now() / 1000;
        must(claims.iss === this.issuer, 'iss');
        must([claims.aud].flat().includes(this.audience), 'aud');
        must(Number.isFinite(claims.exp) && now < claims.exp + SKEW, 'exp');
        must(claims.nbf === undefined || claims.nbf <= now + SKEW, 'nbf');
        return claims;
    }

    /** Keeps the JWKS for its max-age; a kid that is not in it has it fetched once more. */
    async #key(kid) {
        const now = seconds();
        if (now >= this.#until) this.#keys.clear();
        if (!this.#keys.has(kid) && now - this.#asked >= GAP) {
            this.#asked = now;
            const answer = await fetch(`${this.issuer}/.well-known/jwks.json`, { signal: AbortSignal.timeout(3000) });
            must(answer.ok, 'JWKS');
            this.#keys = new Map((await answer.json()).keys.map((key) => [key.kid, key]));
            const age = /max-age=(\d+)/.exec(answer.headers.get('cache-control') ?? '');
            this.#until = now + Math.max(GAP, Number(age?.[1] ?? 0));
        }
        return this.#keys.get(kid);
    }
}

const verifier = new Verifier(...process.argv.slice(2));
for await (const line of createInterface({ input: process.stdin })) {
    await verifier.verify(line.trim()).then(
        (claims) => console.log('ok', claims.sub),
        (error) => console.log('no', error.message.replaceAll('\n', ' ')),
    );
}
