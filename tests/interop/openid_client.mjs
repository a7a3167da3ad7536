// The client of openid_client.py: npm's openid-client through a login, refresh and logout.

import assert from 'node:assert/strict'
import { createInterface } from 'node:readline/promises'
import * as client from 'openid-client'

const [issuer, clientId, secret, redirectUri, postLogoutRedirectUri, scope] = process.argv.slice(2)
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const ok = (name) => console.log(`ok ${name}`)

/** Has the person open `url`; where the browser ended. */
async function open(url) {
  console.log(`open ${url.href}`)
  const { value } = await lines.next()
  return new URL(value)
}

const config = await client.discovery(new URL(issuer), clientId, undefined, client.ClientSecretBasic(secret), {
  execute: [client.allowInsecureRequests],
})
assert.equal(config.serverMetadata().issuer, issuer)
ok('discovery')

const pkceCodeVerifier = client.randomPKCECodeVerifier()
const [expectedState, expectedNonce] = [client.randomState(), client.randomNonce()]
const answer = await open(client.buildAuthorizationUrl(config, {
  redirect_uri: redirectUri,
  scope,
  code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
  code_challenge_method: 'S256',
  state: expectedState,
  nonce: expectedNonce,
}))
const tokens = await client.authorizationCodeGrant(config, answer, {
  pkceCodeVerifier, expectedState, expectedNonce, idTokenExpected: true,
})
ok('login')

const claims = tokens.claims()
assert.equal(claims.iss, issuer)
assert.equal(typeof claims.auth_time, 'number')
assert.equal(typeof claims.sid, 'string')
ok('id_token')

const told = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
assert.equal(told.email, 'ada@example.com')
assert.equal(told.name, 'Ada Lovelace')
ok('userinfo')

const refreshed = await client.refreshTokenGrant(config, tokens.refresh_token)
assert.notEqual(refreshed.access_token, tokens.access_token)
assert.notEqual(refreshed.refresh_token, tokens.refresh_token)
await client.fetchUserInfo(config, refreshed.access_token, claims.sub)
ok('refresh')

const bye = await open(client.buildEndSessionUrl(config, {
  id_token_hint: tokens.id_token,
  post_logout_redirect_uri: postLogoutRedirectUri,
  state: 'bye',
}))
assert.equal(bye.href, `${postLogoutRedirectUri}?state=bye`)
ok('logout')
process.exit(0)
