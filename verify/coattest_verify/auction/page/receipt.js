"use strict";
// Checks the receipt again, from the bytes in this page. Nothing is loaded, and nothing is sent.
//
// It can show that the bytes below were signed under the root named below, and that the table agrees with them.
// It cannot show that the root, the measurements and this script are genuine. The command does that.

const P384 = { name: "ECDSA", namedCurve: "P-384" };
const ES384 = { name: "ECDSA", hash: "SHA-384" };
const DEPTH = 8;
const ALG_ES384 = "a1013822"; // {1: -35}, RFC 9053, table 1
const ALG_ECDSA_SHA384 = "300a06082a8648ce3d040303"; // RFC 5758, 3.2
const BASIC_CONSTRAINTS = "0603551d13"; // RFC 5280, 4.2.1.9

class Refused extends Error {}
const refuse = (why) => { throw new Refused(why); };
const must = (condition, why) => condition || refuse(why);

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const same = (a, b) => a.length === b.length && a.every((byte, index) => byte === b[index]);
const utf8 = (text) => new TextEncoder().encode(text);
const join = (...parts) => {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { all.set(part, at); at += part.length; }
  return all;
};
const unbase64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const digest = async (name, bytes) => new Uint8Array(await crypto.subtle.digest(name, bytes));

// --- CBOR: deterministic (RFC 8949, 4.2.1), except for one indefinite map in the hypervisor's payload.
class Cbor {
  constructor(bytes) { this.bytes = bytes; this.at = 0; }

  static decode(bytes, indefinite = false) {
    const reader = new Cbor(bytes);
    const value = reader.item(0, indefinite);
    must(reader.at === bytes.length, "bytes after the end of a CBOR item");
    return value;
  }

  take(count) {
    must(count <= this.bytes.length - this.at, "CBOR ends too early");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  argument(info) {
    if (info < 24) return info;
    must(info <= 27, "an indefinite CBOR length");
    const value = this.take(1 << (info - 24)).reduce((sum, byte) => sum * 256 + byte, 0);
    must(Number.isSafeInteger(value), "a CBOR number beyond 2^53");
    must(value >= [24, 256, 65536, 4294967296][info - 24], "a CBOR number in a longer form than needed");
    return value;
  }

  item(depth, indefinite = false) {
    must(depth <= DEPTH, "CBOR nested too deep");
    const head = this.take(1)[0];
    const major = head >> 5, info = head & 31;
    if (head === 0xbf && indefinite) return this.map(Infinity, depth);
    if (major === 7) {
      must(head >= 0xf4 && head <= 0xf6, "an unexpected CBOR simple value or float");
      return [false, true, null][head - 0xf4];
    }
    const size = this.argument(info);
    if (major === 0) return size;
    if (major === 1) return -1 - size;
    if (major === 2) return this.take(size);
    if (major === 3) return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.take(size));
    must(major !== 6, "an unexpected CBOR tag");
    must(size <= this.bytes.length - this.at, "CBOR ends too early");
    if (major === 5) return this.map(size, depth);
    const list = [];
    for (let count = 0; count < size; count += 1) list.push(this.item(depth + 1));
    return list;
  }

  map(size, depth) {
    const map = new Map();
    for (let count = 0; count < size; count += 1) {
      if (size === Infinity && this.bytes[this.at] === 0xff) { this.at += 1; return map; }
      const key = this.item(depth + 1);
      must(typeof key === "string" || typeof key === "number", "a CBOR key that is neither text nor number");
      must(!map.has(key), "a CBOR key twice");
      map.set(key, this.item(depth + 1));
    }
    return map;
  }
}

const bytesHead = (major, length) => {
  if (length < 24) return Uint8Array.of(major | length);
  if (length < 256) return Uint8Array.of(major | 24, length);
  if (length < 65536) return Uint8Array.of(major | 25, length >> 8, length & 255);
  return Uint8Array.of(major | 26, length >>> 24, (length >> 16) & 255, (length >> 8) & 255, length & 255);
};
const cborBytes = (bytes) => join(bytesHead(0x40, bytes.length), bytes);
const cborText = (text) => join(bytesHead(0x60, utf8(text).length), utf8(text));

// --- DER for certificates: definite, minimal lengths below 64 KiB.
const der = (bytes, at = 0) => {
  must(at + 2 <= bytes.length, "DER ends too early");
  let length = bytes[at + 1], start = at + 2;
  if (length >= 128) {
    const count = length - 128;
    must(count === 1 || count === 2, "a DER length out of bounds");
    must(start + count <= bytes.length, "DER ends too early");
    length = count === 1 ? bytes[start] : bytes[start] * 256 + bytes[start + 1];
    must(length >= (count === 1 ? 128 : 256), "a DER length in a longer form than needed");
    start += count;
  }
  must(start + length <= bytes.length, "DER ends too early");
  const end = start + length;
  return { tag: bytes[at], raw: bytes.subarray(at, end), body: bytes.subarray(start, end), end };
};
const derList = (bytes) => {
  const items = [];
  for (let at = 0; at < bytes.length; at = items[items.length - 1].end) items.push(der(bytes, at));
  return items;
};
const derTime = ({ tag, body }) => {
  const text = String.fromCharCode(...body);
  const form = tag === 0x17 ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/;
  must(tag === 0x17 || tag === 0x18, "an invalid date");
  const [year, month, ...rest] = (form.exec(text) || refuse("an invalid date")).slice(1).map(Number);
  const century = tag === 0x18 ? 0 : year < 50 ? 2000 : 1900; // RFC 5280, 4.1.2.5.1
  return Date.UTC(century + year, month - 1, ...rest);
};
const rawSignature = (bytes) => {
  const [sequence, ...more] = derList(bytes);
  must(sequence && sequence.tag === 0x30 && !more.length, "an invalid signature");
  const numbers = derList(sequence.body);
  must(numbers.length === 2, "an invalid signature");
  return join(...numbers.map(({ tag, body }) => {
    must(tag === 2 && body.length, "an invalid signature");
    const digits = body[0] === 0 ? body.subarray(1) : body;
    must(digits.length <= 48, "a signature on the wrong curve");
    return join(new Uint8Array(48 - digits.length), digits);
  }));
};
const authority = (extensions) => {
  for (const extension of extensions) {
    const parts = derList(extension.body);
    if (hex(parts[0].raw) !== BASIC_CONSTRAINTS) continue;
    const [ca, length] = derList(der(parts[parts.length - 1].body).body);
    if (!ca || ca.tag !== 1 || ca.body[0] !== 0xff) return null;
    return length ? length.body[0] : Infinity;
  }
  return null;
};
const certificate = (bytes) => {
  const whole = der(bytes);
  must(whole.tag === 0x30 && whole.end === bytes.length, "an invalid certificate");
  const [tbs, algorithm, signature] = derList(whole.body);
  must(hex(algorithm.raw) === ALG_ECDSA_SHA384, "a certificate that is not signed with ECDSA and SHA-384");
  must(signature.tag === 3 && signature.body[0] === 0, "a certificate without a signature");
  const fields = derList(tbs.body);
  must(fields.length >= 7 && fields[0].tag === 0xa0, "a certificate that is not version 3");
  const [, , , issuer, validity, subject, spki] = fields;
  const extensions = fields.find(({ tag }) => tag === 0xa3);
  return {
    tbs: tbs.raw,
    signature: rawSignature(signature.body.subarray(1)),
    issuer: issuer.raw,
    subject: subject.raw,
    spki: spki.raw,
    from: derTime(derList(validity.body)[0]),
    until: derTime(derList(validity.body)[1]),
    pathLength: extensions ? authority(derList(der(extensions.body).body)) : null,
  };
};

const signedBy = async (spki, signature, message) => {
  const key = await crypto.subtle.importKey("spki", spki, P384, false, ["verify"]);
  return crypto.subtle.verify(ES384, key, signature, message);
};
// COSE_Sign1 (RFC 9052, 4.4) with an empty external AAD.
const sign1 = (bytes) => {
  const [protectedHeader, unprotected, payload, signature] = Cbor.decode(bytes);
  must(hex(protectedHeader) === ALG_ES384, "a signature that is not ES384");
  must(signature.length === 96, "a signature of the wrong length");
  const message = join(
    Uint8Array.of(0x84), cborText("Signature1"), cborBytes(protectedHeader), cborBytes(new Uint8Array()), cborBytes(payload),
  );
  return { unprotected, payload, signature, message };
};

// --- The checks, in the order of the page.
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = {
  result: unbase64(data.result),
  receipt: unbase64(data.receipt),
  manifest: unbase64(data.manifest),
  seals: data.seals.map(unbase64),
};
const lazily = (make) => { let made; return () => (made ??= make()); };
const envelope = lazily(() => sign1(bytes.receipt));
const payload = lazily(() => Cbor.decode(envelope().payload, true));
const chain = lazily(() => [...payload().get("cabundle"), payload().get("certificate")].map(certificate));
const result = lazily(() => Cbor.decode(bytes.result));
const manifest = lazily(() => Cbor.decode(bytes.manifest));

// Columns (docs/protocol.md): 8 bytes per lot, big-endian; of winners, a bit per buyer.
const column = (bytes, count) => {
  must(bytes.length === 8 * count, "a column of the wrong length");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: count }, (_, index) => view.getBigUint64(8 * index));
};
const rowsOf = (fields) => {
  const lots = fields.get("lots").split("\n"), buyers = fields.get("buyers");
  const priced = fields.get("rule") === "second-price";
  const winners = column(fields.get("winners"), lots.length);
  const prices = column(fields.get("prices"), priced ? lots.length : 0);
  return lots.map((lot, index) => {
    must(winners[index] >> BigInt(buyers.length) === 0n, "a winner who is not a buyer");
    const names = buyers.filter((_, buyer) => (winners[index] >> BigInt(buyer)) & 1n);
    const outcome = names.length > 1 ? `tie: ${names.join(", ")}` : names[0] ?? "unsold";
    return [lot, outcome, ...(priced ? [names.length === 1 ? String(prices[index]) : ""] : [])];
  });
};

const CHECKS = {
  async root() {
    const found = hex(await digest("SHA-256", payload().get("cabundle")[0]));
    must(found === data.root, `the first certificate is ${found}`);
  },
  async chain() {
    const time = payload().get("timestamp"), certificates = chain(), last = certificates.length - 1;
    must(last >= 1, "no chain");
    for (const [index, each] of certificates.entries()) {
      const above = certificates[Math.max(index - 1, 0)];
      must(same(each.issuer, above.subject), `certificate ${index}: its issuer is not the certificate above`);
      must(await signedBy(above.spki, each.signature, each.tbs), `certificate ${index}: not signed by the one above`);
      must(each.from <= time && time <= each.until, `certificate ${index}: not valid when the document was made`);
      if (index < last) must(each.pathLength !== null && each.pathLength >= last - index - 1, `certificate ${index}: may not sign this chain`);
    }
  },
  async document() {
    const { signature, message } = envelope();
    must(await signedBy(chain()[chain().length - 1].spki, signature, message), "not signed by the leaf's key");
  },
  async result() {
    const expected = join(Uint8Array.of(0x82), cborText("coattest/result/v1"), cborBytes(await digest("SHA-384", bytes.result)));
    must(same(payload().get("user_data"), expected), "the document names a different result");
    must(payload().get("public_key") === null, "the document has a public key: it is not a receipt");
  },
  async code() {
    for (const [index, value] of Object.entries(data.pcrs)) {
      must(hex(payload().get("pcrs").get(Number(index))) === value, `wrong PCR${index}`);
    }
  },
  async seals() {
    must(same(await digest("SHA-384", bytes.manifest), result().get("manifest")), "the result is for a different manifest");
    must(same(payload().get("nonce"), result().get("seal")), "the document names a different seal");
    const buyers = manifest().get("buyers");
    must(buyers.length && buyers.length === bytes.seals.length, "not one seal per buyer");
    const sealed = bytes.seals.map((each) => { must(each[0] === 0xd2, "an invalid seal"); return sign1(each.subarray(1)); });
    for (const buyer of buyers) {
      const name = buyer.get("name");
      const own = sealed.filter(({ unprotected }) => hex(unprotected.get(4)) === hex(utf8(name)));
      must(own.length === 1, `not one seal of ${name}`);
      must(await signedBy(buyer.get("key"), own[0].signature, own[0].message), `the seal of ${name} is not signed by its key`);
      must(same(await digest("SHA-384", own[0].payload), result().get("seal")), `${name} sealed something different`);
    }
  },
  async shown() {
    for (const name of ["auction", "currency", "rule"]) {
      must(document.getElementById(name).textContent === result().get(name), `the ${name} on this page is wrong`);
    }
    const signed = rowsOf(result());
    const rows = document.querySelectorAll("#lots tbody tr");
    must(rows.length === Math.min(signed.length, data.shown), "the table has the wrong number of lots");
    rows.forEach((row, index) => {
      const cells = Array.from(row.cells, (cell) => cell.textContent), expected = signed[index];
      must(cells.length === expected.length && cells.every((text, at) => text === expected[at]), `the row of lot ${expected[0]} is wrong`);
    });
  },
};

const show = (row, outcome, why) => {
  row.className = outcome === "ok" ? "ok" : "failed";
  row.querySelector(".outcome").textContent = outcome;
  if (why) row.querySelector(".why").textContent = why;
};

const main = async () => {
  const summary = document.getElementById("browser-summary");
  let failed = 0;
  if (!globalThis.crypto || !crypto.subtle) {
    summary.textContent = "This browser has no WebCrypto here, so nothing was checked again. Run the command above.";
    document.body.dataset.browser = "unable";
    return;
  }
  for (const [name, check] of Object.entries(CHECKS)) {
    const row = document.getElementById(`browser-${name}`);
    try {
      await check();
      show(row, "ok", "");
    } catch (error) {
      failed += 1;
      show(row, "failed", error instanceof Refused ? error.message : "the bytes cannot be read");
    }
  }
  const count = Object.keys(CHECKS).length;
  summary.className = failed ? "failed" : "ok";
  summary.textContent = failed
    ? `${failed} of ${count} checks FAILED in this browser: do not trust this page.`
    : `All ${count} checks passed in this browser, as far as you trust this page.`;
  if (failed) document.getElementById("verdict").classList.add("doubted");
  document.body.dataset.browser = failed ? "failed" : "ok";
};
main();
