// Ed25519 verification (RFC 8032 section 5.1), strict: s >= L, odd encodings and keys of small order are refused.
// Points are [X, Y, Z, T] with x = X/Z, y = Y/Z, xy = T/Z. Written for reading; one signature takes some ten ms.

const P = 2n ** 255n - 19n, L = 2n ** 252n + 27742317777372353535851937790883648493n;
const mod = (n) => ((n % P) + P) % P;

function power(base, exponent) {
  let result = 1n;
  for (base = mod(base); exponent > 0n; exponent >>= 1n, base = base * base % P) {
    if (exponent & 1n) result = result * base % P;
  }
  return result;
}

const inverse = (n) => power(n, P - 2n);
const D = mod(-121665n * inverse(121666n)), IDENTITY = [0n, 1n, 1n, 0n];

function addPoints([x1, y1, z1, t1], [x2, y2, z2, t2]) {
  const a = mod((y1 - x1) * (y2 - x2)), b = mod((y1 + x1) * (y2 + x2)), c = mod(2n * t1 * t2 * D), d = mod(2n * z1 * z2);
  const e = b - a, f = d - c, g = d + c, h = b + a;
  return [mod(e * f), mod(g * h), mod(f * g), mod(e * h)];
}

function littleEndian(bytes) {
  return bytes.reduceRight((n, byte) => (n << 8n) | BigInt(byte), 0n);
}

function decodePoint(bytes) {
  const sign = BigInt(bytes[31] >> 7), y = littleEndian(bytes) & (2n ** 255n - 1n);
  const square = mod((y * y - 1n) * inverse(D * y * y + 1n));
  let x = power(square, (P + 3n) / 8n);
  if (x * x % P !== square) x = x * power(2n, (P - 1n) / 4n) % P;
  if (y >= P || x * x % P !== square || (x === 0n && sign)) return null;
  if ((x & 1n) !== sign) x = P - x;
  return [x, y, 1n, x * y % P];
}

function encodePoint([x, y, z]) {
  const inverted = inverse(z);
  let n = (y * inverted % P) | ((x * inverted % P & 1n) << 255n);
  return Uint8Array.from({ length: 32 }, () => { const byte = Number(n & 255n); n >>= 8n; return byte; });
}

const BASE = decodePoint(Uint8Array.from({ length: 32 }, (_, i) => (i === 0 ? 0x58 : 0x66)));

function equalBytes(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

// The signatures that were verified: one checkpoint is here once for each of its witnesses.
const verified = new Set();

function verifyEd25519(publicKey, message, signature) {
  const same = [publicKey, message, signature].join("/");
  if (verified.has(same)) return;
  const a = publicKey.length === 32 ? decodePoint(publicKey) : null;
  const s = littleEndian(signature.subarray(32));
  if (a === null || signature.length !== 64 || s >= L) {
    fail("the signature does not verify: it or the key is not a valid Ed25519 encoding");
  }
  const double = addPoints(a, a), four = addPoints(double, double);
  if (equalBytes(encodePoint(addPoints(four, four)), encodePoint(IDENTITY))) {
    fail("the signature does not verify: the key is of small order, so that anyone could sign");
  }
  const k = littleEndian(sha512(joined(signature.subarray(0, 32), publicKey, message))) % L;
  const minusA = [P - a[0], a[1], 1n, P - a[3]];
  const table = [IDENTITY, BASE, minusA, addPoints(BASE, minusA)];
  let total = IDENTITY; // s*B - k*A in one pass; it must be R
  for (let bit = 252n; bit >= 0n; bit--) {
    total = addPoints(addPoints(total, total), table[Number((s >> bit & 1n) | (k >> bit & 1n) << 1n)]);
  }
  if (!equalBytes(encodePoint(total), signature.subarray(0, 32))) {
    fail("the signature does not verify: it is not over this text by this key");
  }
  verified.add(same);
}
