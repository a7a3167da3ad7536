#!/usr/bin/env bash
# The public keys as HAProxy wants them: FOLDER/KID.pem for each RS256 key, and on stdout the lines for haproxy.cfg.
#
#   sealwright keys export-public --format pem | bash haproxy-keys.sh FOLDER
#
# Run it by a timer, more often than every keys.published_seconds (a day), and reload HAProxy when the lines changed.
set -euo pipefail
folder=$1
awk -v folder="$folder" '
    NF == 2 { kid = $1; wanted = $2 == "RS256" && kid ~ /^[A-Za-z0-9_-]+$/ }
    !wanted { next }
    /^-----BEGIN PUBLIC KEY/ {
        file = folder "/" kid ".pem"
        inside = 1
        printf "" >file
        print "http-request set-var(txn.verified) var(txn.token),jwt_verify(RS256,\"" file "\") if { var(txn.kid) -m str -- " kid " }"
    }
    inside { print >file }
    /^-----END PUBLIC KEY/ { inside = 0; close(file) }
'
