// Verifies Sealwright's access tokens with Java's own cryptography (17 or later), and Gson for the JSON.
//
// java -cp gson.jar Verify.java ISSUER AUDIENCE    reads a token a line; prints `ok SUBJECT` or `no REASON` for each.

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.math.BigInteger;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.spec.RSAPublicKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.regex.Pattern;

public class Verify {
    static final double SKEW = 5; // seconds that clocks may differ
    static final long GAP = 5; // seconds between two fetches at least, however many tokens name unknown keys
    static final Pattern MAX_AGE = Pattern.compile("max-age=(\\d{1,9})");

    final HttpClient http = HttpClient.newHttpClient();
    final String issuer, audience;
    Map<String, JsonObject> keys = new HashMap<>();
    long until = System.nanoTime(), asked = until - GAP * 1_000_000_000L;

    Verify(String issuer, String audience) {
        this.issuer = issuer;
        this.audience = audience;
    }

    /** The claims of a good token; throws for every other. */
    JsonObject verify(String token) throws Exception {
        String[] parts = token.split("\\.", -1);
        must(parts.length == 3, "form");
        JsonObject header = object(parts[0]);
        // RFC 9068 §4: an ID token is signed by the same keys, and is no access token.
        must(header.get("typ").getAsString().matches("(?i)(application/)?at\\+jwt") && !header.has("crit"), "typ");
        JsonObject jwk = key(header.get("kid").getAsString());
        must(jwk != null && jwk.get("alg").equals(header.get("alg")), "kid");
        must(signed(jwk, parts[0] + "." + parts[1], bytes(parts[2])), "signature");
        JsonObject claims = object(parts[1]);
        double now = System.currentTimeMillis() / 1000.0;
        must(claims.get("iss").getAsString().equals(issuer), "iss");
        must(names(claims.get("aud"), audience), "aud");
        must(now < claims.get("exp").getAsDouble() + SKEW, "exp");
        must(!claims.has("nbf") || claims.get("nbf").getAsDouble() <= now + SKEW, "nbf");
        return claims;
    }

    /** The list of algorithms is this switch: another one is no algorithm. */
    static boolean signed(JsonObject jwk, String text, byte[] signature) throws GeneralSecurityException {
        String name;
        PublicKey key;
        switch (jwk.get("alg").getAsString()) {
            case "EdDSA" -> {
                // RFC 8410 §4: what stands before the 32 bytes of every Ed25519 key.
                String der = "302a300506032b6570032100" + HexFormat.of().formatHex(bytes(jwk.get("x").getAsString()));
                key = KeyFactory.getInstance("Ed25519").generatePublic(new X509EncodedKeySpec(HexFormat.of().parseHex(der)));
                name = "Ed25519";
            }
            case "RS256" -> {
                BigInteger n = new BigInteger(1, bytes(jwk.get("n").getAsString()));
                BigInteger e = new BigInteger(1, bytes(jwk.get("e").getAsString()));
                key = KeyFactory.getInstance("RSA").generatePublic(new RSAPublicKeySpec(n, e));
                name = "SHA256withRSA";
            }
            default -> throw new GeneralSecurityException("alg");
        }
        Signature verifier = Signature.getInstance(name);
        verifier.initVerify(key);
        verifier.update(text.getBytes(StandardCharsets.US_ASCII));
        return verifier.verify(signature);
    }

    /** Keeps the JWKS for its max-age; a kid that is not in it has it fetched once more. */
    synchronized JsonObject key(String kid) throws IOException, InterruptedException {
        long now = System.nanoTime(), second = 1_000_000_000L;
        if (now - until >= 0) keys.clear();
        if (!keys.containsKey(kid) && now - asked >= GAP * second) {
            asked = now;
            var request = HttpRequest.newBuilder(URI.create(issuer + "/.well-known/jwks.json"));
            var answer = http.send(request.timeout(Duration.ofSeconds(3)).build(), BodyHandlers.ofString());
            must(answer.statusCode() == 200, "JWKS");
            Map<String, JsonObject> found = new HashMap<>();
            for (JsonElement key : JsonParser.parseString(answer.body()).getAsJsonObject().getAsJsonArray("keys")) {
                found.put(key.getAsJsonObject().get("kid").getAsString(), key.getAsJsonObject());
            }
            var age = MAX_AGE.matcher(answer.headers().firstValue("Cache-Control").orElse(""));
            keys = found;
            until = now + second * Math.max(GAP, age.find() ? Long.parseLong(age.group(1)) : 0);
        }
        return keys.get(kid);
    }

    /** `aud` is one text or a list of them. */
    static boolean names(JsonElement aud, String audience) {
        if (!aud.isJsonArray()) return aud.getAsString().equals(audience);
        for (JsonElement each : aud.getAsJsonArray()) if (each.getAsString().equals(audience)) return true;
        return false;
    }

    static void must(boolean holds, String what) {
        if (!holds) throw new IllegalArgumentException(what);
    }

    static byte[] bytes(String part) {
        return Base64.getUrlDecoder().decode(part);
    }

    static JsonObject object(String part) {
        return JsonParser.parseString(new String(bytes(part), StandardCharsets.UTF_8)).getAsJsonObject();
    }

    public static void main(String[] args) throws IOException {
        Verify verifier = new Verify(args[0], args[1]);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line; (line = lines.readLine()) != null; ) {
            try {
                System.out.println("ok " + verifier.verify(line.trim()).get("sub").getAsString());
            } catch (Exception error) {
                System.out.println("no " + error.toString().replace('\n', ' '));
            }
        }
    }
}
