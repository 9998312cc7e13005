#!/bin/sh
# Send an event of your own to your own endpoint, signed, with curl: WEBHOOK_SECRET=whsec_... ./send.sh URL <body
set -eu
url=$1

body=$(mktemp)
trap 'rm -f "$body"' EXIT
cat >"$body"
id=evt_test_$(openssl rand -hex 8) timestamp=$(date +%s)
key=$(printf %s "${WEBHOOK_SECRET#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
signature=v1,$({ printf '%s.%s.' "$id" "$timestamp"; cat "$body"; } |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)
curl --silent --show-error --fail --max-time 15 --data-binary "@$body" \
    --header 'content-type: application/json' --header "webhook-id: $id" \
    --header "webhook-timestamp: $timestamp" --header "webhook-signature: $signature" \
    --write-out '%{http_code}\n' "$url"
