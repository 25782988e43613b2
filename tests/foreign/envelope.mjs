// "Envelope": who says what, on which network, when and until when; signed with Ed25519.

import { createPrivateKey, createPublicKey, sign, verify } from 'node:crypto'
import { words } from './page.mjs'
import { decode, encode } from './codec.mjs'

export const EVERYBODY = Buffer.alloc(32)
const PREFIX = Buffer.from('gridsouk/envelope/1\n')
const VERSION = 1
const BYTES_MAX = 262144
const SKEW_MS = 30_000
const LIFETIME_MAX_MS = 86_400_000

// The DER of RFC 8410 around 32 raw bytes.
const PRIVATE = Buffer.from('302e020100300506032b657004220420', 'hex')
const PUBLIC = Buffer.from('302a300506032b6570032100', 'hex')

/** An Ed25519 key from its 32-byte seed: {key: the 32 public bytes, sign(bytes)}. */
export function peerKey (seed) {
  const secret = createPrivateKey({ key: Buffer.concat([PRIVATE, seed]), format: 'der', type: 'pkcs8' })
  const key = createPublicKey(secret).export({ format: 'der', type: 'spki' }).subarray(-32)
  return { key, sign: bytes => sign(null, bytes, secret) }
}

/** Whether `signature` is the peer's of these bytes. */
export function signedBy (key, bytes, signature) {
  const name = createPublicKey({ key: Buffer.concat([PUBLIC, key]), format: 'der', type: 'spki' })
  return verify(null, bytes, name, signature)
}

/** A message in its signed envelope: the bytes that travel. */
export function seal (kind, message, { me, network, to = EVERYBODY, lifetimeMs, nowMs, sequence }) {
  const envelope = encode('Envelope', {
    version: VERSION,
    network,
    kind,
    author: me.key,
    to,
    sequence,
    issued_at_ms: nowMs,
    expires_at_ms: nowMs + lifetimeMs,
    body: encode(kind, message)
  })
  return encode('Sealing', { envelope, signature: me.sign(Buffer.concat([PREFIX, envelope])) })
}

/** {kind, author, sequence, message, raw} of what travelled; throws where "A reader refuses". */
export function open (data, { network, reader, nowMs }) {
  if (data.length > BYTES_MAX) throw new Error('larger than an envelope')
  const sealing = decode('Sealing', data)
  const envelope = decode('Envelope', sealing.envelope)
  if (envelope.version !== VERSION) throw new Error('of another version')
  if (envelope.network !== network) throw new Error('of another network')
  if (!envelope.to.equals(EVERYBODY) && !envelope.to.equals(reader)) throw new Error('not for us')
  const [issued, expires] = [Number(envelope.issued_at_ms), Number(envelope.expires_at_ms)]
  if (expires <= nowMs) throw new Error('expired')
  if (issued > nowMs + SKEW_MS) throw new Error('from the future')
  if (expires - issued > LIFETIME_MAX_MS) throw new Error('lives too long')
  const signed = Buffer.concat([PREFIX, sealing.envelope])
  if (!signedBy(envelope.author, signed, sealing.signature)) throw new Error('not by its author')
  if (!(envelope.kind in words)) throw new Error(`no message is called ${envelope.kind}`)
  const message = decode(envelope.kind, envelope.body)
  return { kind: envelope.kind, author: envelope.author, sequence: envelope.sequence, message, raw: data }
}
