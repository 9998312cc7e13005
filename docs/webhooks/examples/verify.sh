#!/bin/sh
# Verify a webhook by hand, with openssl: WEBHOOK_SECRET=whsec_... ./verify.sh ID TIMESTAMP SIGNATURE <body
# For looking at a delivery, not for production: the key can be seen in the list of processes.
set -eu
id=$1 timestamp=$2 signatures=$3

age=$(($(date +%s) - timestamp))
if [ "$age" -gt 300 ] || [ "$age" -lt -300 ]; then
    echo "refused: too old, or one of the clocks is wrong" >&2
    exit 1
fi
key=$(printf %s "${WEBHOOK_SECRET#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
expected=v1,$({ printf '%s.%s.' "$id" "$timestamp"; cat; } |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)
for signature in $signatures; do # several while a secret is rotated
    if [ "$signature" = "$expected" ]; then
        echo "verified"
        exit 0
    fi
done
echo "refused: no signature fits" >&2
exit 1
