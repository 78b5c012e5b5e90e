// SHA-256 and SHA-512 (FIPS 180-4). Constants are computed as the standard defines them: the first bits of the
// fractional parts of the square and cube roots of the first primes.

function primes(count) {
  const found = [];
  for (let n = 2; found.length < count; n++) {
    if (found.every((p) => n % p !== 0)) found.push(n);
  }
  return found;
}

// The first `bits` bits of the fractional part of the `degree`-th root of n.
function rootBits(n, degree, bits) {
  const scaled = BigInt(n) << BigInt(degree * bits);
  let low = 0n, high = 1n << BigInt(bits + 10);
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle ** BigInt(degree) <= scaled) low = middle; else high = middle;
  }
  return BigInt.asUintN(bits, low);
}

const K256 = Uint32Array.from(primes(64), (p) => Number(rootBits(p, 3, 32)));
const H256 = Uint32Array.from(primes(8), (p) => Number(rootBits(p, 2, 32)));
const K512 = primes(80).map((p) => rootBits(p, 3, 64));
const H512 = primes(8).map((p) => rootBits(p, 2, 64));

function padded(bytes, block) {
  const tail = block / 8;
  const size = Math.ceil((bytes.length + 1 + tail) / block) * block;
  const out = new Uint8Array(size);
  out.set(bytes);
  out[bytes.length] = 0x80;
  new DataView(out.buffer).setBigUint64(size - 8, BigInt(bytes.length) * 8n);
  return new DataView(out.buffer);
}

function sha256(bytes) {
  const data = padded(bytes, 64), h = Uint32Array.from(H256), w = new Uint32Array(64);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let at = 0; at < data.byteLength; at += 64) {
    for (let t = 0; t < 16; t++) w[t] = data.getUint32(at + 4 * t);
    for (let t = 16; t < 64; t++) {
      const a = w[t - 15], b = w[t - 2];
      const s0 = turn(a, 7) ^ turn(a, 18) ^ (a >>> 3), s1 = turn(b, 17) ^ turn(b, 19) ^ (b >>> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    let [a, b, c, d, e, f, g, k] = h;
    for (let t = 0; t < 64; t++) {
      const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25), choice = (e & f) ^ (~e & g);
      const one = (k + s1 + choice + K256[t] + w[t]) | 0;
      const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22), majority = (a & b) ^ (a & c) ^ (b & c);
      k = g; g = f; f = e; e = (d + one) | 0; d = c; c = b; b = a; a = (one + s0 + majority) | 0;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e; h[5] += f; h[6] += g; h[7] += k;
  }
  const out = new DataView(new ArrayBuffer(32));
  h.forEach((word, i) => out.setUint32(4 * i, word));
  return new Uint8Array(out.buffer);
}

function sha512(bytes) {
  const data = padded(bytes, 128), h = [...H512], w = new Array(80), cut = (x) => BigInt.asUintN(64, x);
  const turn = (x, n) => (x >> n) | cut(x << (64n - n));
  for (let at = 0; at < data.byteLength; at += 128) {
    for (let t = 0; t < 16; t++) w[t] = data.getBigUint64(at + 8 * t);
    for (let t = 16; t < 80; t++) {
      const a = w[t - 15], b = w[t - 2];
      const s0 = turn(a, 1n) ^ turn(a, 8n) ^ (a >> 7n), s1 = turn(b, 19n) ^ turn(b, 61n) ^ (b >> 6n);
      w[t] = cut(w[t - 16] + s0 + w[t - 7] + s1);
    }
    let [a, b, c, d, e, f, g, k] = h;
    for (let t = 0; t < 80; t++) {
      const s1 = turn(e, 14n) ^ turn(e, 18n) ^ turn(e, 41n), choice = (e & f) ^ (cut(~e) & g);
      const one = cut(k + s1 + choice + K512[t] + w[t]);
      const s0 = turn(a, 28n) ^ turn(a, 34n) ^ turn(a, 39n), majority = (a & b) ^ (a & c) ^ (b & c);
      k = g; g = f; f = e; e = cut(d + one); d = c; c = b; b = a; a = cut(one + s0 + majority);
    }
    [a, b, c, d, e, f, g, k].forEach((word, i) => { h[i] = cut(h[i] + word); });
  }
  const out = new DataView(new ArrayBuffer(64));
  h.forEach((word, i) => out.setBigUint64(8 * i, word));
  return new Uint8Array(out.buffer);
}
