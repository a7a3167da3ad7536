// Verifies Sealwright's access tokens with Go's standard library alone.
//
// go run verify.go ISSUER AUDIENCE    reads a token a line; prints `ok SUBJECT` or `no REASON` for each.
package main

import (
	"bufio"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	skew = 5 * time.Second // that clocks may differ
	gap  = 5 * time.Second // between two fetches at least, however many tokens name keys that nobody knows
)

var maxAge = regexp.MustCompile(`max-age=(\d{1,9})`)

// Of a header, the claims and a key, what is looked at.
type header struct {
	Alg, Kid, Typ string
	Crit          json.RawMessage
}
type claims struct {
	Iss, Sub string
	Aud      json.RawMessage
	Exp, Nbf float64
}
type jwk struct{ Alg, Kid, Kty, Crv, N, E, X string }

// Verifier keeps the JWKS for its max-age; a kid that is not in it has it fetched once more.
type Verifier struct {
	issuer, audience string
	lock             sync.Mutex
	keys             map[string]jwk
	until, asked     time.Time
}

// Verify returns the claims of a good token, and an error for every other.
func (v *Verifier) Verify(token string) (c claims, err error) {
	parts := strings.Split(token, ".")
	var h header
	if len(parts) != 3 || read(parts[0], &h) != nil || read(parts[1], &c) != nil {
		return c, errors.New("form")
	}
	// RFC 9068 §4: an ID token is signed by the same keys, and is no access token.
	if strings.TrimPrefix(strings.ToLower(h.Typ), "application/") != "at+jwt" || h.Crit != nil {
		return c, errors.New("typ")
	}
	key, err := v.key(h.Kid)
	if err != nil || key.Alg != h.Alg {
		return c, errors.New("kid")
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !verifies(key, []byte(parts[0]+"."+parts[1]), signature) {
		return c, errors.New("signature")
	}
	now := float64(time.Now().UnixMilli()) / 1000
	switch {
	case c.Iss != v.issuer:
		return c, errors.New("iss")
	case !contains(c.Aud, v.audience):
		return c, errors.New("aud")
	case now >= c.Exp+skew.Seconds() || c.Nbf > now+skew.Seconds():
		return c, errors.New("exp")
	}
	return c, nil
}

// The list of algorithms is this switch: another one is no algorithm.
func verifies(key jwk, signed, signature []byte) bool {
	switch key.Alg {
	case "EdDSA":
		x, err := base64.RawURLEncoding.DecodeString(key.X)
		return err == nil && key.Crv == "Ed25519" && len(x) == ed25519.PublicKeySize && ed25519.Verify(x, signed, signature)
	case "RS256":
		n, err1 := base64.RawURLEncoding.DecodeString(key.N)
		e, err2 := base64.RawURLEncoding.DecodeString(key.E)
		if err1 != nil || err2 != nil {
			return false
		}
		public := rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		digest := sha256.Sum256(signed)
		return rsa.VerifyPKCS1v15(&public, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

func (v *Verifier) key(kid string) (jwk, error) {
	v.lock.Lock()
	defer v.lock.Unlock()
	now := time.Now()
	if now.After(v.until) {
		v.keys = nil
	}
	if _, known := v.keys[kid]; !known && now.Sub(v.asked) >= gap {
		v.asked = now
		if err := v.fetch(now); err != nil {
			return jwk{}, err
		}
	}
	key, known := v.keys[kid]
	if !known {
		return key, errors.New("unknown kid")
	}
	return key, nil
}

func (v *Verifier) fetch(now time.Time) error {
	client := http.Client{Timeout: 3 * time.Second}
	answer, err := client.Get(v.issuer + "/.well-known/jwks.json")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var set struct{ Keys []jwk }
	if err := json.NewDecoder(answer.Body).Decode(&set); err != nil || answer.StatusCode != 200 {
		return errors.New("JWKS")
	}
	v.keys, v.until = map[string]jwk{}, now.Add(gap)
	for _, key := range set.Keys {
		v.keys[key.Kid] = key
	}
	if age := maxAge.FindStringSubmatch(answer.Header.Get("Cache-Control")); age != nil {
		seconds, _ := strconv.Atoi(age[1])
		if kept := time.Duration(seconds) * time.Second; kept > gap {
			v.until = now.Add(kept)
		}
	}
	return nil
}

func read(part string, into any) error {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// `aud` is one text or a list of them.
func contains(aud json.RawMessage, audience string) bool {
	var one string
	var many []string
	if json.Unmarshal(aud, &one) == nil {
		return one == audience
	}
	_ = json.Unmarshal(aud, &many)
	for _, each := range many {
		if each == audience {
			return true
		}
	}
	return false
}

func main() {
	verifier := &Verifier{issuer: os.Args[1], audience: os.Args[2]}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if found, err := verifier.Verify(lines.Text()); err != nil {
			fmt.Println("no", err)
		} else {
			fmt.Println("ok", found.Sub)
		}
	}
}
