// A provider: offers a unit, quotes, is paid by the voucher, hands over results, settles.
//
// It has no sandbox: it understands one command, `echo WORDS > /out/NAME`, and does that itself.

import { randomBytes } from 'node:crypto'
import { bytes, Chain, operatorKey, signerOf, typedDigest } from './chain.mjs'
import { digest, sha256 } from './codec.mjs'
import { Market } from './market.mjs'
import { Peer } from './network.mjs'
import { sync } from './watch.mjs'

const NOBODY = Buffer.alloc(20)
const NOWHERE = { x_us: 0, y_us: 0, height_us: 0, error_ppm: 1_000_000 }
const COLLATERAL = 2_000_000
const FUNDS = 10_000_000
const INTERVAL_S = 1
const HOLD_S = 20
const LIFETIME_S = 60
const seconds = () => Math.floor(Date.now() / 1000)
const hex = data => data.toString('hex')
const pause = ms => new Promise(resolve => setTimeout(resolve, ms))

/** Sells one unit once, at `price` per hour; returns what it was paid. */
export async function sell ({ seed, network, bootstrap, rpc, escrow, token, wallet, price, say }) {
  const chain = await Chain.connect({ rpc, escrow, token, wallet })
  const operator = operatorKey(randomBytes(32))
  await chain.fund(operator.address, FUNDS)
  await chain.stake(COLLATERAL)
  const shop = new Shop({ chain, operator, price: BigInt(price), token: bytes(token), say })
  const peer = await Peer.join({
    seed,
    network,
    hear: opened => { if (opened.kind === 'wanted') shop.hear(opened) },
    answer: opened => shop.answer(opened)
  })
  shop.peer = peer
  await peer.serveBlobs(shop.blobs, other => other.equals(shop.requester ?? Buffer.alloc(0)))
  const saying = setInterval(() => shop.sayOffer(), 2_000)
  try {
    await sync(peer, await peer.dial(bootstrap), new Market())
    shop.sayOffer()
    return await shop.run()
  } finally {
    clearInterval(saying)
    await peer.stop()
    chain.stop()
  }
}

class Shop {
  blobs = new Map()
  #quoted = new Map() // agreement in hex -> {terms, demand}
  #asked = new Set() // demands that were answered
  #log = Buffer.alloc(0)
  #beat = null
  #pay = null
  #accepted = Promise.withResolvers()
  #last = Promise.withResolvers()

  constructor (given) {
    Object.assign(this, given)
    this.offerId = randomBytes(16)
  }

  // ---- `offers` --------------------------------------------------------------------------------

  get offer () {
    return {
      offer_id: this.offerId, peer: this.peer.me.key, provider: this.chain.address,
      operator: this.operator.address, gpu_name: 'CPU', num_gpus: this.requester ? 0 : 1,
      num_units: 1, gpu_ram_mib: 0, cuda_vers: 0, driver_version: '', declared: true,
      verified: false, dlperf_milli: 0, cpu_cores: 1, cpu_ram_mib: 1024, disk_space_mib: 1024,
      inet_up_kbps: 100_000, inet_down_kbps: 100_000, geolocation: 'local',
      reliability_ppm: 1_000_000, price_per_hour: this.price, collateral_per_unit: COLLATERAL,
      min_duration_s: 1, max_duration_s: 3600, heartbeat_interval_s: INTERVAL_S,
      preemptible: false, grace_s: 0, queue_wait_s: 0, start_up_ms: 100, coordinate: NOWHERE,
      cached_images: [], expires_at_s: seconds() + LIFETIME_S, egress: [], certificate: null
    }
  }

  sayOffer () {
    const message = { offers: [this.offer], page: 0, pages: 1 }
    this.peer.publish('offers', 'offers', message, LIFETIME_S * 1000)
      .catch(problem => this.say({ not_published: problem.message }))
  }

  // ---- `wanted` and `quote` --------------------------------------------------------------------

  hear ({ author, message: { demand } }) {
    const id = hex(demand.demand_id)
    if (this.requester || this.#asked.has(id) || !demand.peer.equals(author)) return
    const wanted = demand.requirements.accelerators.some(({ name }) => name === 'CPU' || name === '*')
    if (!wanted || demand.max_price_per_hour < this.price || demand.num_nodes !== 1) return
    this.#asked.add(id)
    this.#quote(demand).catch(problem => this.say({ not_quoted: problem.message }))
  }

  async #quote (demand) {
    const terms = await this.#terms(demand)
    const agreement = typedDigest('Terms', terms, this.chain.domain)
    this.#quoted.set(hex(agreement), { terms, demand })
    await this.peer.ask(demand.peer, 'quote', {
      demand_id: demand.demand_id, offer: this.offer, terms,
      provider_signature: this.operator.sign(agreement), image_cached: false, ready_in_ms: 100,
      hold_until_s: seconds() + HOLD_S
    })
    this.say({ quoted: hex(agreement), to: hex(demand.peer) })
  }

  async #terms (demand) {
    const limits = await this.chain.escrow.limits()
    return {
      parties: {
        requester: demand.requester, provider: this.chain.address,
        requester_signer: demand.operator, provider_signer: this.operator.address,
        token: this.token, arbiter: NOBODY
      },
      money: {
        deposit: (this.price * BigInt(demand.max_duration_s) + 3599n) / 3600n,
        collateral: COLLATERAL, price_per_hour: this.price, bond: 100_000, slash_bps: 10_000,
        victim_share_bps: 5_000, equivocation_bps: 10_000
      },
      timing: {
        open_by_s: seconds() + 30, duration_s: demand.max_duration_s, start_grace_s: 10,
        window_s: Math.max(6, Number(limits.minWindow)),
        claim_window_s: Math.max(10, Number(limits.minClaimWindow)),
        offline_allowance_s: 20, arbiter_window_s: 0
      },
      units: 1n, job: demand.job, salt: randomBytes(32)
    }
  }

  // ---- the work, and its heartbeats ------------------------------------------------------------

  async run () {
    const { terms, manifest } = await this.#accepted.promise
    while (Number((await this.chain.escrow.agreement(this.id)).status) === 0) await pause(250)
    const openedAt = seconds()
    const report = (work, more = {}) => ({
      work, exit_code: 0, out_of_memory: false, reason: '', cpu_ms: 0, memory_bytes: 0, gpu_ppm: 0,
      log_bytes: this.#log.length, checkpoint: null, checkpoint_step: 0, results: [],
      progress_ppm: 0, vram_mib: 0, power_w: 0, ...more
    })
    await this.#say(report('staging'), 0)
    const image = await this.peer.fetch(this.requester, manifest.image)
    if (!sha256(image).equals(manifest.image.hash)) throw new Error('the image has other bytes')
    for (let ran = 0; ran < 2; ran++) {
      await this.#say(report('running'), seconds() - openedAt)
      await pause(INTERVAL_S * 1000)
    }
    const results = this.#perform(manifest.command)
    await this.#say(report('exited', { results }), seconds() - openedAt)
    await this.#last.promise
    const { voucher, signature } = this.#pay
    await this.chain.settle(terms, voucher, signature)
    return await this.chain.closed(this.id)
  }

  /** One heartbeat, told until it is heard. */
  async #say (report, metered) {
    const heartbeat = {
      agreement: this.id, sequence: (this.#beat?.heartbeat.sequence ?? 0n) + 1n, at_s: seconds(),
      metered_s: metered, challenge: 0, state: digest('Report', report)
    }
    const signature = this.operator.sign(typedDigest('Heartbeat', heartbeat, this.chain.domain))
    this.#beat = { heartbeat, signature, report }
    while (true) {
      try {
        return await this.peer.ask(this.requester, 'beat', this.#beat)
      } catch (problem) {
        this.say({ beat_not_heard: problem.message })
        await pause(500)
      }
    }
  }

  #perform (command) {
    const [, words, path] = command.match(/^echo (.*) > (\/out\/\w+)$/) ?? []
    if (path === undefined) throw new Error(`this provider cannot do that: ${command}`)
    const made = Buffer.from(words + '\n')
    this.#log = Buffer.from(`made ${path}\n`)
    this.blobs.set(hex(sha256(made)), made)
    return [{ path, hash: sha256(made), size_bytes: made.length }]
  }

  // ---- what the requester asks -----------------------------------------------------------------

  async answer ({ kind, author, message }) {
    switch (kind) {
      case 'sync':
        return ['synced', { envelopes: [] }] // our offer is gossiped every two seconds
      case 'accept':
        this.#accept(author, message)
        return ['done', {}]
      case 'release':
        this.#quoted.delete(hex(message.agreement))
        return ['done', {}]
    }
    if (!author.equals(this.requester ?? Buffer.alloc(0))) throw new Error('no such agreement')
    switch (kind) {
      case 'pay':
        this.#take(message)
        return ['done', {}]
      case 'status':
        return this.#beat ? ['beat', this.#beat] : ['done', {}]
      case 'readlog': {
        const offset = Number(message.offset)
        const data = this.#log.subarray(offset, offset + 65536)
        return ['logpart', { offset, data, more: offset + data.length < this.#log.length }]
      }
      case 'stop':
        return ['done', {}] // it is over in a moment anyway
    }
    throw new Error(`${kind} is not for a provider`)
  }

  #accept (author, { agreement, requester_signature: signature, manifest }) {
    const quoted = this.#quoted.get(hex(agreement))
    if (!quoted || !quoted.demand.peer.equals(author)) throw new Error('the hold is over')
    if (!digest('Manifest', manifest).equals(quoted.terms.job)) throw new Error('another manifest')
    if (!signerOf(agreement, signature).equals(quoted.terms.parties.requester_signer)) throw new Error('not signed')
    this.requester = author
    this.id = agreement
    this.#accepted.resolve({ terms: quoted.terms, manifest })
  }

  #take (pay) {
    const { voucher, signature } = pay
    if (!voucher.agreement.equals(this.id)) throw new Error('of another agreement')
    const named = typedDigest('Voucher', voucher, this.chain.domain)
    const { requester_signer: signer } = this.#quoted.get(hex(this.id)).terms.parties
    if (!signerOf(named, signature).equals(signer)) throw new Error('not signed')
    const better = !this.#pay || voucher.amount > this.#pay.voucher.amount || voucher.last
    if (better) this.#pay = pay
    this.say({ voucher: String(voucher.amount), last: voucher.last })
    if (voucher.last) this.#last.resolve()
  }
}
