// A requester: demands, chooses, agrees, pays by the heartbeat, fetches the results, settles.

import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { bytes, Chain, operatorKey, signerOf, typedDigest } from './chain.mjs'
import { digest, sha256 } from './codec.mjs'
import { imageOf } from './image.mjs'
import { Market } from './market.mjs'
import { Peer } from './network.mjs'
import { sync } from './watch.mjs'

const NOBODY = Buffer.alloc(20)
const DURATION_S = 60
const WINDOW_MS = 1_500
const STANDS_S = 60
const PRICE_MAX = 5_000_000 // per unit-hour, in base units of a token with six decimals
const FUNDS = 50_000_000
const seconds = () => Math.floor(Date.now() / 1000)

/** Rents a unit, runs `command` on it and returns {result, log, amount, paid, ...}. */
export async function rent ({ seed, network, bootstrap, rpc, escrow, token, wallet, command, busybox, say }) {
  const chain = await Chain.connect({ rpc, escrow, token, wallet })
  const operator = operatorKey(randomBytes(32))
  await chain.fund(operator.address, FUNDS)
  const image = imageOf(readFileSync(busybox))
  const blobs = new Map([[hex(sha256(image)), image]])
  const job = new Rental({ chain, operator, token: bytes(token), image, command, say })
  const market = new Market()
  const peer = await Peer.join({
    seed,
    network,
    hear: opened => { if (opened.kind === 'offers') market.hear(opened, opened.raw) },
    answer: opened => job.answer(opened)
  })
  job.peer = peer
  await peer.serveBlobs(blobs, other => other.equals(job.provider ?? Buffer.alloc(0)))
  await sync(peer, await peer.dial(bootstrap), market)
  say({ offers: market.offers().length })
  try {
    return await job.run()
  } finally {
    await peer.stop()
    chain.stop()
  }
}

class Rental {
  quotes = []
  #beat = null
  #promised = 0
  #heard = () => {}

  constructor (given) {
    Object.assign(this, given)
    const artifact = { path: 'busybox', hash: sha256(this.image), size_bytes: this.image.length }
    this.manifest = {
      job_id: randomBytes(16), name: 'foreign', workload: 'batch', image: artifact,
      command: this.command, envs: [], inputs: [], outputs: ['/out'], checkpoint_path: '',
      checkpoint_interval_s: 0, resume: null, cpus: 0, memory_mib: 128, disk_mib: 64,
      max_duration_s: DURATION_S, grace_s: 1, ports: [], egress: []
    }
  }

  async run () {
    await this.#demand()
    const quote = await this.#choose()
    await this.#agree(quote)
    const report = await this.#work()
    const result = await this.#fetch(report)
    await this.#pay(true)
    const { paid, refunded } = await this.chain.closed(this.id)
    const [requester, operator] = [this.chain.address, this.operator.address].map(hex)
    const { exit_code } = report
    return { ...result, requester, operator, exit_code, promised: this.#promised, paid, refunded }
  }

  // ---- `wanted` and `quote` --------------------------------------------------------------------

  async #demand () {
    const now = Date.now()
    this.demand = {
      demand_id: randomBytes(16), job_id: this.manifest.job_id, round: 1,
      peer: this.peer.me.key, requester: this.chain.address, operator: this.operator.address,
      requirements: {
        accelerators: [{ name: 'CPU', count: 1 }], vram_mib: 0, cpus: 0, memory_mib: 128,
        disk_mib: 64, cuda_vers: 0, regions: [], max_rtt_us: 0, min_reliability_ppm: 0,
        verified: false, real: false, egress: []
      },
      max_price_per_hour: PRICE_MAX, value_of_time_per_hour: 0, workload: 'batch', estimate_s: 0,
      max_duration_s: DURATION_S, deadline_at_s: 0, priority: 0, num_nodes: 1, preemptible: false,
      checkpoint_interval_s: 0, image: this.manifest.image.hash,
      image_bytes: this.image.length, input_bytes: 0, output_bytes: 0,
      job: digest('Manifest', this.manifest), token: this.token, slash_bps: 0, exclude: [],
      coordinate: { x_us: 0, y_us: 0, height_us: 0, error_ppm: 1_000_000 },
      quote_by_ms: now + WINDOW_MS, expires_at_s: seconds() + STANDS_S
    }
    this.#sayDemand()
    this.saying = setInterval(() => this.#sayDemand(), 2_000) // "and is said again"
  }

  #sayDemand () {
    this.peer.publish('demands', 'wanted', { demand: this.demand }, STANDS_S * 1000)
      .catch(problem => this.say({ not_published: problem.message }))
  }

  async #choose () {
    while (this.quotes.length === 0) await this.#something()
    await pause(this.demand.quote_by_ms - Date.now()) // others may be cheaper
    clearInterval(this.saying)
    const price = ({ terms }) => Number(terms.money.price_per_hour)
    const [best, ...others] = this.quotes.sort((a, b) => price(a) - price(b))
    for (const other of others) {
      await this.peer.ask(other.offer.peer, 'release', { agreement: this.#agreement(other.terms) })
    }
    return best
  }

  #agreement (terms) { return typedDigest('Terms', terms, this.chain.domain) }

  #checkQuote (author, quote) {
    const { offer, terms, provider_signature: signature } = quote
    const { parties, money, timing } = terms
    const demand = this.demand
    const must = (holds, sentence) => { if (!holds) throw new Error(sentence) }
    must(quote.demand_id.equals(demand.demand_id), 'answers another demand')
    must(offer.peer.equals(author), 'a quote comes from the peer that offers')
    must(parties.requester.equals(demand.requester), 'names another requester')
    must(parties.requester_signer.equals(demand.operator), 'names another key of ours')
    must(parties.provider.equals(offer.provider), 'pays another wallet')
    must(parties.provider_signer.equals(offer.operator), 'is signed by another key')
    must(parties.token.equals(demand.token), 'is in another token')
    must(parties.arbiter.equals(NOBODY), 'names an arbiter')
    must(money.price_per_hour <= PRICE_MAX, 'costs too much')
    must(ones(terms.units) === 1, 'sells another number of units')
    must(terms.job.equals(demand.job), 'is for another job')
    must(timing.duration_s === DURATION_S, 'lasts another time')
    must(money.deposit <= ceil(money.price_per_hour * BigInt(DURATION_S), 3600n), 'locks too much')
    must(quote.hold_until_s > seconds(), 'is over')
    must(signerOf(this.#agreement(terms), signature).equals(parties.provider_signer), 'is not signed')
  }

  // ---- `accept`, and the chain -----------------------------------------------------------------

  async #agree (quote) {
    this.provider = quote.offer.peer
    this.interval_s = quote.offer.heartbeat_interval_s
    this.terms = quote.terms
    this.id = this.#agreement(quote.terms)
    const signature = this.operator.sign(this.id)
    await this.peer.ask(this.provider, 'accept', {
      agreement: this.id, requester_signature: signature, manifest: this.manifest, secrets: [],
      rank: 0, num_nodes: 1, members: []
    })
    this.openedAt = await this.chain.open(quote.terms, signature, quote.provider_signature)
    this.say({ agreement: hex(this.id), opened_at: this.openedAt })
    await this.peer.publish('demands', 'unwanted', { demand_id: this.demand.demand_id }, 60_000)
  }

  // ---- `beat` and `pay` ------------------------------------------------------------------------

  async #work () {
    while (!['exited', 'broken', 'preempted'].includes(this.#beat?.report.work)) {
      await this.#something()
      await this.#pay(false)
    }
    return this.#beat.report
  }

  #checkBeat ({ heartbeat, signature, report }) {
    if (!heartbeat.agreement.equals(this.id)) throw new Error('of another agreement')
    if (!digest('Report', report).equals(heartbeat.state)) throw new Error('not the signed report')
    const named = typedDigest('Heartbeat', heartbeat, this.chain.domain)
    if (!signerOf(named, signature).equals(this.terms.parties.provider_signer)) throw new Error('not signed')
  }

  /** What the heartbeats earn: metered seconds, never more than have passed; rounded down. */
  #owed () {
    const passed = Math.max(0, seconds() - this.openedAt) + this.interval_s
    const paid = Math.min(this.#beat.heartbeat.metered_s, passed, DURATION_S)
    return Number(this.terms.money.price_per_hour * BigInt(ones(this.terms.units)) * BigInt(paid) / 3600n)
  }

  async #pay (last) {
    if (this.#beat === null || this.openedAt === undefined) return
    const amount = Math.max(this.#promised, this.#owed())
    if (amount === this.#promised && !last) return
    const voucher = { agreement: this.id, amount, ack: digest('Heartbeat', this.#beat.heartbeat), last }
    const signature = this.operator.sign(typedDigest('Voucher', voucher, this.chain.domain))
    this.#promised = amount
    await this.peer.ask(this.provider, 'pay', { voucher, signature })
    this.say({ voucher: amount, last })
  }

  // ---- results ---------------------------------------------------------------------------------

  async #fetch (report) {
    const { message: log } = await this.peer.ask(this.provider, 'readlog', { agreement: this.id, offset: 0 })
    const results = {}
    for (const artifact of report.results) {
      const data = await this.peer.fetch(this.provider, artifact)
      if (!sha256(data).equals(artifact.hash)) throw new Error(`${artifact.path}: wrong bytes`)
      results[artifact.path] = data.toString()
    }
    return { results, log: log.data.toString(), reason: report.reason }
  }

  // ---- what others ask -------------------------------------------------------------------------

  async answer ({ kind, author, message }) {
    switch (kind) {
      case 'sync':
        return ['synced', { envelopes: [] }]
      case 'quote':
        if (this.provider) throw new Error('the demand is met')
        this.#checkQuote(author, message)
        this.quotes.push(message)
        this.say({ quote: String(message.terms.money.price_per_hour), from: hex(author) })
        break
      case 'beat':
        if (!author.equals(this.provider)) throw new Error('there is no such agreement between us')
        this.#checkBeat(message)
        if (message.heartbeat.sequence > (this.#beat?.heartbeat.sequence ?? -1n)) this.#beat = message
        this.say({ beat: Number(message.heartbeat.sequence), work: message.report.work, metered_s: message.heartbeat.metered_s })
        break
      default:
        throw new Error(`${kind} is not for a requester`)
    }
    this.#heard()
    return ['done', {}]
  }

  #something () {
    return new Promise(resolve => { this.#heard = resolve })
  }
}

const pause = ms => new Promise(resolve => setTimeout(resolve, ms))
const hex = data => data.toString('hex')
const ones = bits => [...BigInt(bits).toString(2)].filter(bit => bit === '1').length
const ceil = (value, by) => (value + by - 1n) / by
