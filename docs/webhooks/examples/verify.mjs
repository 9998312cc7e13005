// Verify a webhook with Node's own crypto (Node 18 or newer).
//
// By hand: WEBHOOK_SECRET=whsec_... node verify.mjs WEBHOOK_ID WEBHOOK_TIMESTAMP WEBHOOK_SIGNATURE <body
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const TOLERANCE_S = 300;

/**
 * Give the event, or throw. `headers` as Node has them (lower case); `body` is a Buffer of the bytes as they came:
 * with Express use express.raw({ type: "application/json" }), never the parsed body.
 */
export function verify(secret, headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!/^[0-9]{1,11}$/.test(timestamp)) throw new Error("no timestamp");
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) {
    throw new Error("too old, or one of the clocks is wrong");
  }
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const hmac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body);
  const expected = Buffer.from(`v1,${hmac.digest("base64")}`);
  const given = (headers["webhook-signature"] ?? "").split(" ").map((each) => Buffer.from(each));
  // several while a secret is rotated
  if (!given.some((each) => each.length === expected.length && timingSafeEqual(each, expected))) {
    throw new Error("no signature fits");
  }
  return JSON.parse(body.toString("utf8"));
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [id, timestamp, signature] = process.argv.slice(2);
  const headers = { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature };
  try {
    console.log("verified", verify(process.env.WEBHOOK_SECRET, headers, readFileSync(0)).type);
  } catch (error) {
    console.error(`refused: ${error.message}`);
    process.exitCode = 1;
  }
}
