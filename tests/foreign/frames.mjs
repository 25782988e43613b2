// "Transport": the frames of requests and of channels, over one libp2p stream each.

/** Bytes of a stream, so many at a time. Always reading: what limits a sender is credit. */
export class Bytes {
  #parts = []
  #size = 0
  #ended = null
  #wake = () => {}

  constructor (stream) {
    this.stream = stream
    const end = reason => { this.#ended ??= reason; this.#wake() }
    stream.addEventListener('message', event => {
      this.#parts.push(Buffer.from(event.data.subarray()))
      this.#size += event.data.byteLength
      this.#wake()
    })
    stream.addEventListener('remoteCloseWrite', () => end(new Error('the stream has ended')))
    stream.addEventListener('close', event => end(event.error ?? new Error('the stream is closed')))
  }

  async read (size) {
    while (this.#size < size) {
      if (this.#ended) throw this.#ended
      await new Promise(resolve => { this.#wake = resolve })
    }
    const all = Buffer.concat(this.#parts)
    this.#parts = [all.subarray(size)]
    this.#size -= size
    return all.subarray(0, size)
  }

  async write (data) {
    if (!this.stream.send(data)) await this.stream.onDrain()
  }
}

/** `size (4) | kind (1) | id (8) | payload` */
export function requestFrame (kind, id, payload) {
  const header = Buffer.alloc(13)
  header.writeUInt32BE(9 + payload.length, 0)
  header.writeUInt8(kind, 4)
  header.writeBigUInt64BE(BigInt(id), 5)
  return Buffer.concat([header, payload])
}

export async function readRequestFrame (bytes) {
  const header = await bytes.read(13)
  const size = header.readUInt32BE(0)
  if (size < 9 || size > 9 + 262144) throw new Error(`a frame of ${size} bytes`)
  return { kind: header[4], id: Number(header.readBigUInt64BE(5)), payload: await bytes.read(size - 9) }
}

/** `kind (1) | size (4) | payload` */
export function channelFrame (kind, size, payload = Buffer.alloc(0)) {
  const header = Buffer.alloc(5)
  header.writeUInt8(kind, 0)
  header.writeUInt32BE(size, 1)
  return Buffer.concat([header, payload])
}

export const [DATA, ACK, END, ENDED] = [0, 1, 2, 3]
const FRAME_MAX = 1048576
const CREDIT = 2097152

/** One end of a channel: frames with credit, and an end that is told from a broken line. */
export class Channel {
  #bytes
  #frames = []
  #unacknowledged = []
  #inFlight = 0
  #ended = false
  #confirmed = false
  #broken = null
  #waiting = []

  constructor (stream) {
    this.#bytes = new Bytes(stream)
    this.#run().catch(problem => { this.#broken = problem; this.#notify() })
  }

  async #run () {
    while (true) {
      const header = await this.#bytes.read(5)
      const [kind, size] = [header[0], header.readUInt32BE(1)]
      if (kind === DATA) {
        if (size > FRAME_MAX) throw new Error('a frame that is too large')
        this.#frames.push(await this.#bytes.read(size))
      } else if (kind === ACK) {
        if (this.#unacknowledged.shift() !== size) throw new Error('acknowledges what was not sent')
        this.#inFlight -= size
      } else if (kind === END) {
        this.#ended = true
        await this.#bytes.write(channelFrame(ENDED, 0))
      } else if (kind === ENDED) {
        this.#confirmed = true
      } else {
        throw new Error(`a frame of an unknown kind: ${kind}`)
      }
      this.#notify()
    }
  }

  #notify () {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  async #until (holds) {
    while (!holds()) {
      if (this.#broken) throw this.#broken
      await new Promise(resolve => this.#waiting.push(resolve))
    }
  }

  /** Waits for credit. */
  async send (payload) {
    await this.#until(() => this.#inFlight === 0 || this.#inFlight + payload.length <= CREDIT)
    this.#unacknowledged.push(payload.length)
    this.#inFlight += payload.length
    await this.#bytes.write(channelFrame(DATA, payload.length, payload))
  }

  /** The next frame, or null when the other has closed. */
  async receive () {
    await this.#until(() => this.#frames.length > 0 || this.#ended)
    if (this.#frames.length === 0) return null
    const frame = this.#frames.shift()
    await this.#bytes.write(channelFrame(ACK, frame.length))
    return frame
  }

  async close () {
    await this.#bytes.write(channelFrame(END, 0))
    await this.#until(() => this.#confirmed).catch(() => {})
    await this.#bytes.stream.close().catch(() => {})
  }
}
