// Open the page twice: both see every ring. The session reconnects and resumes by itself.
import { Session, decodeValue, encodeValue, guestGrant, methodId } from "/mainstay.js";

const $ = (id) => document.getElementById(id);
const session = new Session({ grant: () => guestGrant() });
const bell = session.stream("bell");

session.on("connected", ({ resumed }) => { $("state").textContent = resumed ? "resumed" : "connected"; });
session.on("lost", () => { $("state").textContent = "reconnecting"; });
session.on("ended", ({ end }) => { $("state").textContent = `ended: ${end.kind}`; });

bell.on(methodId("rung"), (body) => { [$("rings").textContent] = decodeValue(body); });
$("ring").addEventListener("click", async () => {
  $("rings").textContent = decodeValue(await bell.request(methodId("ring"), encodeValue([])));
});
