// "Transport": one libp2p host that gossips, asks and answers requests, and carries channels.

import { generateKeyPairFromSeed, publicKeyFromRaw } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { decode, encode } from './codec.mjs'
import { peerKey, open, seal } from './envelope.mjs'
import { Bytes, Channel, readRequestFrame, requestFrame } from './frames.mjs'

const REQUESTS = '/gridsouk/requests/1'
const DIRECT_MS = 60_000
const [ASK, PEERS, REPLY, FAILED] = [0, 1, 2, 3]

export class Peer {
  #lines = new Map()
  #sequence = 0n

  /** `hear(opened)` for gossip; `answer(opened) -> [kind, message]` for requests. */
  static async join ({ seed, network, hear, answer }) {
    const peer = new Peer()
    peer.me = peerKey(seed)
    peer.network = network
    peer.hear = hear
    peer.answer = answer
    peer.refused = []
    peer.libp2p = await createLibp2p({
      privateKey: await generateKeyPairFromSeed('Ed25519', seed),
      addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      connectionGater: { denyDialMultiaddr: () => false }, // else js will not dial loopback
      services: {
        identify: identify(),
        pubsub: gossipsub({
          allowPublishToZeroTopicPeers: true,
          scoreParams: { IPColocationFactorWeight: 0 } // here everybody has one address
        })
      }
    })
    const pubsub = peer.libp2p.services.pubsub
    pubsub.addEventListener('message', event => peer.#gossip(event.detail))
    for (const topic of ['offers', 'demands']) pubsub.subscribe(topic)
    await peer.libp2p.handle(REQUESTS, (stream, connection) => peer.#serve(stream, connection))
    return peer
  }

  async dial (address) {
    const connection = await this.libp2p.dial(multiaddr(address))
    return Buffer.from(connection.remotePeer.publicKey.raw)
  }

  stop () { return this.libp2p.stop() }

  // ---- envelopes -------------------------------------------------------------------------------

  #seal (kind, message, lifetimeMs, to) {
    const now = BigInt(Date.now()) * 1_000_000n
    this.#sequence = now > this.#sequence ? now : this.#sequence + 1n // "grows"
    return seal(kind, message, {
      me: this.me, network: this.network, to, lifetimeMs, nowMs: Date.now(), sequence: this.#sequence
    })
  }

  open (data) {
    return open(data, { network: this.network, reader: this.me.key, nowMs: Date.now() })
  }

  // ---- "Gossip" --------------------------------------------------------------------------------

  async publish (topic, kind, message, lifetimeMs) {
    await this.libp2p.services.pubsub.publish(topic, this.#seal(kind, message, lifetimeMs))
  }

  #gossip ({ topic, data }) {
    try {
      this.hear(this.open(Buffer.from(data)))
    } catch (problem) {
      this.refused.push(`${topic}: ${problem.message}`)
    }
  }

  // ---- "Requests": one long-lived stream per peer and direction ---------------------------------

  async ask (peer, kind, message) {
    const line = await this.#line(peer)
    const id = ++line.last
    const reply = new Promise((resolve, reject) => line.waiting.set(id, { resolve, reject }))
    await line.bytes.write(requestFrame(ASK, id, this.#seal(kind, message, DIRECT_MS, peer)))
    const opened = this.open(await reply)
    if (!opened.author.equals(peer)) throw new Error('somebody else answered')
    if (opened.kind === 'refused') {
      throw new Error(`${kind} refused: ${opened.message.code}: ${opened.message.message}`)
    }
    return opened
  }

  #line (peer) {
    const name = peer.toString('hex')
    if (!this.#lines.has(name)) {
      const line = this.#openLine(peer)
      this.#lines.set(name, line)
      line.then(({ ended }) => ended, () => {}).then(() => this.#lines.delete(name))
    }
    return this.#lines.get(name)
  }

  async #openLine (peer) {
    const stream = await this.libp2p.dialProtocol(idOf(peer), REQUESTS)
    const line = { bytes: new Bytes(stream), waiting: new Map(), last: 0 }
    const read = async () => {
      while (true) {
        const { kind, id, payload } = await readRequestFrame(line.bytes)
        const { resolve, reject } = line.waiting.get(id) ?? { resolve () {}, reject () {} }
        line.waiting.delete(id)
        kind === REPLY ? resolve(payload) : reject(new Error(`could not answer: ${payload}`))
      }
    }
    line.ended = read().catch(problem => {
      for (const { reject } of line.waiting.values()) reject(problem)
    })
    return line
  }

  async #serve (stream, connection) {
    const peer = Buffer.from(connection.remotePeer.publicKey.raw)
    const bytes = new Bytes(stream)
    try {
      while (true) {
        const { kind, id, payload } = await readRequestFrame(bytes)
        this.#reply(peer, kind, payload).then(
          reply => bytes.write(requestFrame(REPLY, id, reply)),
          problem => bytes.write(requestFrame(FAILED, id, Buffer.from(String(problem.message))))
        ).catch(() => {})
      }
    } catch (problem) {
      stream.abort(problem)
    }
  }

  async #reply (peer, kind, payload) {
    if (kind === PEERS) return encode('Known', { addresses: [] }) // we send nobody anywhere
    if (kind !== ASK) throw new Error('unknown kind of request')
    let answer
    try {
      const opened = this.open(payload)
      if (!opened.author.equals(peer)) throw new Error('signed by somebody else')
      answer = await this.answer(opened)
    } catch (problem) {
      this.refused.push(`request: ${problem.message}`)
      answer = ['refused', { code: 'refused', message: String(problem.message).slice(0, 80) }]
    }
    return this.#seal(...answer, DIRECT_MS, peer)
  }

  // ---- "Channels" ------------------------------------------------------------------------------

  async channel (peer, name) {
    return new Channel(await this.libp2p.dialProtocol(idOf(peer), `/gridsouk/${name}/1`))
  }

  serve (name, handler) {
    return this.libp2p.handle(`/gridsouk/${name}/1`, async (stream, connection) => {
      const channel = new Channel(stream)
      try {
        await handler(channel, Buffer.from(connection.remotePeer.publicKey.raw))
        await channel.close()
      } catch (problem) {
        stream.abort(problem)
      }
    })
  }

  // ---- "`blob`" --------------------------------------------------------------------------------

  /** The bytes of an artifact, checked against its size and hash by the caller. */
  async fetch (peer, { hash, size_bytes: size }) {
    const channel = await this.channel(peer, 'blob')
    await channel.send(encode('Fetch', { hash, offset: 0 }))
    const fetched = decode('Fetched', await channel.receive())
    if (Number(fetched.size_bytes) !== size) throw new Error('not of the announced size')
    const parts = []
    for (let have = 0; have < size;) {
      const part = await channel.receive()
      if (part === null) throw new Error('the transfer ended early')
      parts.push(part)
      have += part.length
    }
    await channel.close()
    return Buffer.concat(parts)
  }

  /** Serves these blobs (by their hash in hex) to whom `may(peer, hash)` lets. */
  serveBlobs (blobs, may) {
    return this.serve('blob', async (channel, peer) => {
      const { hash, offset } = decode('Fetch', await channel.receive())
      const blob = blobs.get(hash.toString('hex'))
      if (blob === undefined || !may(peer, hash)) {
        return await channel.send(encode('Fetched', { size_bytes: 0 }))
      }
      await channel.send(encode('Fetched', { size_bytes: blob.length }))
      for (let at = Number(offset); at < blob.length; at += 524288) {
        await channel.send(blob.subarray(at, at + 524288))
      }
    })
  }
}

const idOf = peer => peerIdFromPublicKey(publicKeyFromRaw(peer))
