// The rules of audit/verify.py, in the browser: verifier keys and signed checkpoints (C2SP), the Merkle tree of
// RFC 6962, the form of an entry, payloads against their commitments.

class Failure extends Error {
  constructor(message, seq) { super(message); this.seq = seq; this.origin = null; }
}

function fail(message, seq = null) { throw new Failure(message, seq); }

function joined(...parts) {
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) { out.set(part, at); at += part.length; }
  return out;
}

const utf8 = (text) => new TextEncoder().encode(text);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

function unbase64(text) {
  let data = "";
  try { data = atob(text); } catch { fail(`got ${text.slice(0, 60)}, expected base64`); }
  if (btoa(data) !== text) fail(`got ${text.slice(0, 60)}, expected base64 in its canonical spelling`);
  return Uint8Array.from(data, (c) => c.charCodeAt(0));
}

function text(value, what, limit = 262144) {
  if (typeof value !== "string" || value.length > limit) fail(`${what} is missing or too long`);
  return value;
}

function parseVkey(vkey) {
  const match = /^([!-*,-~]{1,255})\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})$/.exec(text(vkey, "a verifier key", 512));
  const blob = match ? unbase64(match[3]) : [];
  const keyId = match ? sha256(joined(utf8(match[1] + "\n"), blob)).subarray(0, 4) : [];
  if (!match || blob[0] !== 1 || hex(keyId) !== match[2]) fail(`got ${vkey.slice(0, 120)}, expected a verifier key`);
  return { vkey, name: match[1], keyId, publicKey: blob.subarray(1) };
}

const SIGNATURE = /^— ((?:[^\s\x85+]|\ufeff){1,255}) (\S+)$/u; // what Python takes for spaces

function openCheckpoint(note, key) {
  const cut = text(note, "the checkpoint", 524288).lastIndexOf("\n\n");
  const body = note.slice(0, cut), lines = note.slice(cut + 2).split("\n");
  let signed = false;
  if (cut < 0 || utf8(note).length > 524288 || lines.pop() !== "" || lines.length > 1024 || /[\0-\t\v-\x1f\ufffd\p{Cs}]/u.test(note)) {
    fail("the checkpoint is not a signed note: a text, an empty line, signature lines");
  }
  for (const line of lines) {
    const match = SIGNATURE.exec(line), blob = match ? unbase64(match[2]) : [];
    if (blob.length < 5) fail(`the checkpoint has a malformed signature line ${line.slice(0, 120)}`);
    if (match[1] === key.name && equalBytes(blob.subarray(0, 4), key.keyId)) { // others are not ours to judge
      verifyEd25519(key.publicKey, utf8(body + "\n"), blob.subarray(4));
      signed = true;
    }
  }
  if (!signed) fail(`the checkpoint is not signed by ${key.name} (key id ${hex(key.keyId)})`);
  const match = /^([^\n]+)\n(0|[1-9][0-9]{0,14})\n([A-Za-z0-9+/]{43}=)((?:\n[^\n]+)*)$/.exec(body); // last: lines that extend it
  if (!match || match[1] !== key.name) fail(`the checkpoint's text is not the origin ${key.name}, a size and a root`);
  return { size: Number(match[2]), root: unbase64(match[3]) };
}

// An entry's time to the millisecond; it has microseconds. A day or an hour that there is not is NaN or another moment.
const isMoment = (time) => time >= "0001" && !Number.isNaN(moment(time)) && new Date(moment(time)).toISOString() === `${time.slice(0, 23)}Z`;
// Milliseconds since 1970 of an entry's time, which has microseconds.
const moment = (time) => Date.parse(`${time.slice(0, 23)}Z`);
// A checkpoint of a log with its own signature and that of one witness (C2SP tlog-cosignature, version 1).
function openWitnessed(note, key, keys, rootAt) {
  const { size, root } = openCheckpoint(note, key);
  const body = note.slice(0, note.lastIndexOf("\n\n") + 1), lines = note.slice(body.length + 1).split("\n");
  const [own, line] = lines.map((item) => SIGNATURE.exec(item));
  const blob = line ? unbase64(line[2]) : [];
  const idOf = (item) => sha256(joined(utf8(item.name + "\n"), [4], item.publicKey)).subarray(0, 4);
  const witness = keys.find((item) => line && item.name === line[1] && item !== key && equalBytes(idOf(item), blob.subarray(0, 4)));
  if (lines.length !== 3 || !own || own[1] !== key.name || !witness || blob.length !== 76) fail("a witness's signature is not by a party of this page");
  const seconds = new DataView(blob.buffer, blob.byteOffset + 4, 8).getBigUint64(0);
  if (seconds > 253402300799n) fail("a witness's signature has a time that no calendar tells");
  verifyEd25519(witness.publicKey, utf8(`cosignature/v1\ntime ${seconds}\n${body}`), blob.subarray(12));
  if (!equalBytes(rootAt(size), root)) fail(`${witness.name} signed another history of this log: its holder has signed two`);
  return { witness: witness.name, size, time: new Date(Number(seconds) * 1000).toISOString() };
}

const leafHash = (bytes) => sha256(joined([0], bytes));
const nodeHash = (left, right) => sha256(joined([1], left, right));

// The root over all leaves (RFC 6962 section 2.1), from the roots of complete subtrees, largest first.
function rootOf(leafHashes) {
  const peaks = [];
  leafHashes.forEach((leaf, index) => {
    let node = leaf;
    for (let size = index; size % 2 === 1; size = (size - 1) / 2) node = nodeHash(peaks.pop(), node);
    peaks.push(node);
  });
  return peaks.length ? peaks.reduceRight((root, peak) => nodeHash(peak, root)) : sha256(new Uint8Array());
}

// The root that an audit path leads to (RFC 9162 section 2.1.3.2).
function rootByPath(leaf, index, size, path, seq) {
  let position = index, last = size - 1, node = leaf;
  if (!(index < size)) fail(`entry ${seq} is not one of the ${size} that are signed`, seq);
  for (const sibling of path) {
    if (last === 0 || sibling.length !== 32) fail(`the proof of entry ${seq} does not fit the tree`, seq);
    if (position % 2 === 1 || position === last) {
      node = nodeHash(sibling, node);
      while (position % 2 === 0 && position > 0) { position /= 2; last = Math.floor(last / 2); }
    } else {
      node = nodeHash(node, sibling);
    }
    position = Math.floor(position / 2); last = Math.floor(last / 2);
  }
  if (last !== 0) fail(`the proof of entry ${seq} is too short`, seq);
  return node;
}

const DIGEST = /^sha256:[0-9a-f]{64}$/, SOME = /^[^]+$/;
const FIELDS = {
  schema: /^concordat\/audit\/v1$/, seq: "count", time: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/, actor: SOME,
  action: /^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/, resource: SOME, decision: /^(allow|deny|record)$/, rule: SOME, reason: SOME,
  policy: DIGEST, run: SOME, round: "count", payload_commitment: DIGEST,
};
const OPTIONAL = new Set(["rule", "reason", "policy", "run", "round", "payload_commitment"]);

function canonical(value) {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const names = Object.keys(value).sort();
  return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
}

function strings(value) {
  if (typeof value !== "object" || value === null) return String(value);
  return Object.entries(value).map(([name, item]) => `${name} ${strings(item)}`).join(" ");
}

function checkEntry(line, seq) {
  let entry = null;
  if (utf8(line).length > 262144 || /\p{Cs}/u.test(line)) fail(`entry ${seq} is too long or has no UTF-8 form`, seq);
  try { entry = JSON.parse(line); } catch { fail(`entry ${seq} is not JSON`, seq); }
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  let same = false; // a text that is nested too deeply has no form here; nor has one with an escaped half of a character
  try { same = canonical(entry) === line && !/\p{Cs}/u.test(strings(entry)); } catch { /* as said */ }
  if (!same || !isObject(entry) || !isObject(entry.detail)) {
    fail(`entry ${seq} is not an object with a detail, in canonical form (RFC 8785)`, seq);
  }
  const names = Object.keys(entry).filter((name) => name !== "detail").sort().join();
  if (names !== Object.keys(FIELDS).sort().join()) fail(`entry ${seq} does not have exactly the keys of an entry`, seq);
  for (const [name, form] of Object.entries(FIELDS)) {
    const value = entry[name];
    const fits = form === "count"
      ? Number.isInteger(value) && value >= 0 && value < 1e15
      : typeof value === "string" && form.test(value);
    if (!fits && !(value === null && OPTIONAL.has(name))) fail(`entry ${seq} has an impossible ${name}`, seq);
  }
  for (const [name, value] of Object.entries(entry.detail)) {
    const fits = ["string", "boolean"].includes(typeof value) || Number.isSafeInteger(value);
    if (!fits || !/^[A-Za-z0-9_./:-]{1,128}$/.test(name)) fail(`entry ${seq} has an impossible detail`, seq);
  }
  if (entry.seq !== seq) fail(`entry ${seq} is missing or moved: in its place is entry ${entry.seq}`, seq);
  if (!isMoment(entry.time)) fail(`entry ${seq} has an impossible time`, seq);
  return entry;
}

function checkPayload(raw, entry) {
  const sound = utf8(text(raw, "a payload", 2097152)).length <= 1048704 && !/\p{Cs}/u.test(raw);
  const match = sound ? /^\{"payload":(\{[^]*\}),"salt":"([0-9a-f]{64})"\}\n$/.exec(raw) : null;
  const salt = match ? Uint8Array.from(match[2].match(/../g), (pair) => parseInt(pair, 16)) : [];
  if (!match || `sha256:${hex(sha256(joined(salt, utf8(match[1]))))}` !== entry.payload_commitment) {
    fail(`the payload of entry ${entry.seq} is not what the entry commits to: it was altered`, entry.seq);
  }
  const within = (value, levels) => typeof value !== "object" || value === null || (levels > 0 && Object.values(value).every((item) => within(item, levels - 1)));
  let payload = null;
  try { payload = JSON.parse(match[1]); } catch { fail(`the payload of entry ${entry.seq} is not JSON`, entry.seq); }
  if (!within(payload, 32)) fail(`the payload of entry ${entry.seq} is nested deeper than 32 levels`, entry.seq);
  return payload;
}

// One log: either all of its entries, whose root must be the signed one, or some, each with its inclusion proof.
function verifyLog(log, keys) {
  const key = keys.find((item) => item.vkey === log.vkey);
  try {
    const { size, root } = openCheckpoint(log.checkpoint, key);
    const complete = log.entries !== undefined, entries = [], payloads = new Map();
    let witnesses = [];
    if (complete) {
      const hashes = log.entries.map((line, seq) => leafHash(utf8(text(line, `entry ${seq}`))));
      log.entries.forEach((line, seq) => entries.push(checkEntry(line, seq)));
      if (hashes.length !== size) fail(`${size} entries are signed, ${hashes.length} are here`, Math.min(size, hashes.length));
      // The root tells that an entry was altered, the leaf hashes beside the entries tell which.
      const stored = text(log.hashes, "the leaf hashes", 1e9).match(/[^]{1,44}/g) || [];
      const first = hashes.findIndex((hash, seq) => btoa(String.fromCharCode(...hash)) !== stored[seq]);
      const sound = equalBytes(rootOf(hashes), root);
      if (first >= 0) fail(`entry ${first}${sound ? " is as signed, but the hash stored with it" : ""} was altered`, first);
      if (!sound || stored.length !== size) fail("the entries do not have the signed root");
      const roots = new Map(), rootAt = (at) => {
        if (!roots.has(at)) roots.set(at, at > hashes.length ? new Uint8Array() : rootOf(hashes.slice(0, at)));
        return roots.get(at);
      };
      witnesses = log.witnessed.map((note) => openWitnessed(note, key, keys, rootAt));
    } else {
      let last = -1;
      for (const [seq, line, path, ...more] of log.proved) {
        if (!Number.isInteger(seq) || seq <= last || more.length) fail(`entry ${seq} is here twice or out of order`);
        last = seq;
        const found = rootByPath(leafHash(utf8(text(line, `entry ${seq}`))), seq, size, path.map(unbase64), seq);
        if (!equalBytes(found, root)) fail(`entry ${seq} was altered: it is not in the signed tree`, seq);
        entries.push(checkEntry(line, seq));
      }
    }
    const bySeq = new Map(entries.map((entry) => [String(entry.seq), entry]));
    if (String(log.payloads) !== "[object Object]") fail("the payloads are damaged");
    for (const [seq, raw] of Object.entries(log.payloads)) {
      if (!bySeq.has(seq)) fail(`a payload belongs to entry ${seq}, which is not here`, Number(seq));
      payloads.set(Number(seq), checkPayload(raw, bySeq.get(seq)));
    }
    return { key, origin: key.name, size, root: hex(root), checkpoint: log.checkpoint, complete, entries, payloads, witnesses };
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    error.origin = key.name;
    throw error;
  }
}

// All evidence, or a Failure that names the log and the first bad entry where one can be named.
function verifyEvidence(source) {
  let evidence = null;
  try { evidence = JSON.parse(source); } catch { fail("the evidence in this page is not readable"); }
  try {
    if (evidence.schema !== "concordat/audit-report/v1") fail("the evidence is of another version than this page");
    const keys = evidence.logs.map((log) => parseVkey(log.vkey));
    const logs = evidence.logs.map((log) => verifyLog(log, keys)), run = text(evidence.run, "the run", 1000);
    if (new Set(logs.map((log) => log.origin)).size !== logs.length) fail("one party's log is here twice");
    if (!logs.some((log) => log.entries.some((entry) => entry.run === run))) fail(`no log has an entry of run ${run}`);
    return { run, logs };
  } catch (error) {
    if (error instanceof Failure) throw error;
    return fail(`the evidence in this page is damaged: ${error.message}`);
  }
}
