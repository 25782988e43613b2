// A peer that only looks: joins, syncs, listens, and prints each offer that it verified.

import { Market, shown } from './market.mjs'
import { Peer } from './network.mjs'

/** Returns the offers, once there are `atLeast`. */
export async function watch ({ seed, network, bootstrap, atLeast = 1, say }) {
  const market = new Market()
  const peer = await Peer.join({
    seed,
    network,
    hear: opened => { if (opened.kind === 'offers') market.hear(opened, opened.raw) },
    answer: async ({ kind }) => {
      if (kind === 'sync') return ['synced', { envelopes: [] }]
      throw new Error(`${kind} is not for a peer that only looks`)
    }
  })
  const first = await peer.dial(bootstrap)
  say({ joined: peer.me.key.toString('hex'), by: first.toString('hex') })
  await sync(peer, first, market)
  while (market.offers().length < atLeast) await new Promise(resolve => setTimeout(resolve, 100))
  return { peer, first, market, offers: market.offers().map(shown) }
}

/** "sync": what we lack of live offers and demands; each is an envelope like any other. */
export async function sync (peer, other, market) {
  const { message } = await peer.ask(other, 'sync', { known: market.known() })
  for (const raw of message.envelopes) {
    try {
      const opened = peer.open(raw)
      if (opened.kind === 'offers') market.hear(opened, opened.raw)
    } catch (problem) { // one of many, and not the fault of who handed it on
      peer.refused.push(`synced: ${problem.message}`)
    }
  }
}
