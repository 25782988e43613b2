// A peer of the market in another language, written from docs/PROTOCOL.md.
//
//     node peer.mjs watch town.json              joins, and prints the live offers that it verified
//     node peer.mjs rent  town.json COMMAND      rents a unit, runs COMMAND, fetches its results
//
// town.json: {bootstrap, network, rpc, escrow, token, wallet}. Prints one line of JSON for each thing that happens.

import './polyfill.mjs'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'

const say = fact => console.log(JSON.stringify(fact, (_, value) => typeof value === 'bigint' ? String(value) : value))
const [command, file, ...rest] = process.argv.slice(2)
const given = JSON.parse(readFileSync(file))
const seed = randomBytes(32)

if (command === 'watch') {
  const { watch } = await import('./watch.mjs')
  const { peer, offers } = await watch({ ...given, seed, say })
  say({ offers, refused: peer.refused })
  await new Promise(r => setTimeout(r, +(process.env.STAY ?? 0)))
  say({ connections: peer.libp2p.getConnections().length })
  await peer.stop()
}

if (command === 'rent') {
  const { rent } = await import('./requester.mjs')
  say(await rent({ ...given, seed, command: rest[0], say }))
}
