// A receiver of webhooks: `SECRET=whsec_… node receiver.mjs` listens on port 9000 (or PORT).
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secret = Buffer.from(process.env.SECRET.replace(/^whsec_/, ""), "base64");
const seen = new Set(); // in earnest: a table, kept for at least a week

// Whether the raw body was signed with our secret within the last five minutes.
function isGenuine(headers, body) {
  const { "webhook-id": id = "", "webhook-timestamp": stamp = "", "webhook-signature": given = "" } = headers;
  if (!/^\d+$/.test(stamp) || Math.abs(Date.now() / 1000 - Number(stamp)) > 300) return false;
  const expected = "v1," + createHmac("sha256", secret).update(`${id}.${stamp}.`).update(body).digest("base64");
  return given.split(" ").some((one) => one.length === expected.length
    && Buffer.byteLength(one) === one.length && timingSafeEqual(Buffer.from(one), Buffer.from(expected)));
}

const server = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts), genuine = isGenuine(request.headers, body);
  response.writeHead(genuine ? 204 : 401).end();
  if (!genuine || seen.has(request.headers["webhook-id"])) return;
  seen.add(request.headers["webhook-id"]);
  const event = JSON.parse(body);
  console.log(event.type, event.process_number);
});
server.listen(Number(process.env.PORT ?? 9000), "127.0.0.1",
  () => console.log(`listening on http://127.0.0.1:${server.address().port}/`));
