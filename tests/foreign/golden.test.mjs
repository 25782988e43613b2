// This peer against tests/golden/wire.json, byte for byte: node --test tests/foreign/*.test.mjs

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'
import { operatorKey, signerOf, typedDigest } from './chain.mjs'
import { decode, encode } from './codec.mjs'
import { open, peerKey, seal } from './envelope.mjs'
import { channelFrame, requestFrame } from './frames.mjs'
import { kinds } from './page.mjs'

const golden = JSON.parse(readFileSync(new URL('../golden/wire.json', import.meta.url)))
const hex = text => Buffer.from(text, 'hex')

/** A value of ours from the file's words: integers are decimal there, bytes hexadecimal. */
function valueOf (type, shown) {
  if (type.is === 'optional') return shown === null ? null : valueOf(type.of, shown)
  if (type.is === 'list') return shown.map(item => valueOf(type.of, item))
  if (type.is === 'int') return type.high > Number.MAX_SAFE_INTEGER ? BigInt(shown) : Number(shown)
  if (type.is === 'bytes') return hex(shown)
  if (type.is !== 'value' || kinds[type.of].words) return shown
  const fields = Object.entries(kinds[type.of].fields)
  return Object.fromEntries(fields.map(([name, inner]) => [name, valueOf(inner, shown[name])]))
}

test('every value is written and read as the file has it', () => {
  assert.ok(golden.values.length > 100)
  for (const row of golden.values) {
    const value = valueOf({ is: 'value', of: row.kind }, row.value)
    assert.equal(encode(row.kind, value).toString('hex'), row.bytes, row.kind)
    assert.deepEqual(decode(row.kind, hex(row.bytes)), value, row.kind)
  }
})

test('other bytes are refused', () => {
  for (const row of golden.refused) assert.throws(() => decode(row.kind, hex(row.bytes)), row.why)
})

test('envelopes are sealed and opened', () => {
  const me = peerKey(hex(golden.seed))
  const when = { network: 'devnet-31337', reader: hex(golden.reader), nowMs: Number(golden.now_ms) }
  for (const row of golden.envelopes) {
    const message = decode(row.kind, hex(row.body))
    const sealed = seal(row.kind, message, {
      me,
      network: row.network,
      to: hex(row.to),
      lifetimeMs: row.expires_at_ms - row.issued_at_ms,
      nowMs: Number(row.issued_at_ms),
      sequence: BigInt(row.sequence)
    })
    assert.equal(sealed.toString('hex'), row.sealing)
    assert.deepEqual(open(sealed, when).message, message)
    const spoilt = Buffer.from(sealed)
    spoilt[sealed.length - 1] ^= 1 // the signature's last byte: "signature" is the last field
    assert.throws(() => open(spoilt, when), /author/)
    assert.throws(() => open(sealed, { ...when, network: 'sepolia-1' }), /network/)
    assert.throws(() => open(sealed, { ...when, nowMs: Number(row.expires_at_ms) }), /expired/)
  }
})

test('frames of requests and channels', () => {
  for (const row of golden.frames) {
    const payload = hex(row.payload)
    const made = row.stream === 'requests'
      ? requestFrame(row.kind, Number(row.id), payload)
      : channelFrame(row.kind, row.size, payload)
    assert.equal(made.toString('hex'), row.bytes)
  }
})

test('digests for the chain, and who signed them', () => {
  const domain = { chainId: golden.domain.chainId, escrow: golden.domain.verifyingContract }
  const key = operatorKey(golden.chain_key)
  for (const row of golden.digests) {
    const digest = typedDigest(row.kind, valueOf({ is: 'value', of: row.kind }, row.value), domain)
    assert.equal(digest.toString('hex'), row.digest, row.kind)
    assert.deepEqual(signerOf(digest, hex(row.signature)), key.address)
    assert.deepEqual(signerOf(digest, key.sign(digest)), key.address)
  }
})
