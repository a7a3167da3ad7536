#!/bin/sh
# Makes the secrets of compose.yaml in docker/secrets, once: what is there already stays. Only you can read them.
# Keep master_key: without it nobody can open what the database holds.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
[ -s secrets/master_key ] || openssl rand -hex 32 >secrets/master_key
[ -s secrets/postgres_password ] || openssl rand -hex 32 >secrets/postgres_password
printf 'postgres://sealwright:%s@postgres:5432/sealwright\n' "$(cat secrets/postgres_password)" >secrets/database_url
# The nodes run as you, to be able to read them; as root they would have more than they need.
user=$(id -u):$(id -g)
if [ "$(id -u)" = 0 ]; then
    user=65532:65532
    chown "$user" secrets/master_key secrets/database_url
fi
echo "SEALWRIGHT_USER=$user" >.env
echo "Made docker/secrets and docker/.env."
