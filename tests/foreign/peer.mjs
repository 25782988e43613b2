// A peer of the market in another language, written from docs/PROTOCOL.md.
//
//     node peer.mjs watch town.json              joins, and prints the live offers that it verified
//     node peer.mjs rent  town.json COMMAND      rents a unit, runs COMMAND, fetches its results
//     node peer.mjs sell  town.json PRICE        offers a unit at PRICE an hour, and sells it once
//     node peer.mjs image town.json FILE         writes a small image
//
// town.json: {bootstrap, network, rpc, escrow, token, wallet, busybox}. Prints a line of JSON for
// each thing that happens.

import './polyfill.mjs'
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'

const say = fact => console.log(JSON.stringify(fact, (_, value) => typeof value === 'bigint' ? String(value) : value))
const [command, file, ...rest] = process.argv.slice(2)
const given = JSON.parse(readFileSync(file))
const seed = randomBytes(32)

if (command === 'watch') {
  const { watch } = await import('./watch.mjs')
  const { peer, offers } = await watch({ ...given, seed, say })
  say({ offers, refused: peer.refused })
  await peer.stop()
}

if (command === 'rent') {
  const { rent } = await import('./requester.mjs')
  say(await rent({ ...given, seed, command: rest[0], say }))
}

if (command === 'sell') {
  const { sell } = await import('./provider.mjs')
  say(await sell({ ...given, seed, price: rest[0], say }))
}

if (command === 'image') {
  const { imageOf } = await import('./image.mjs')
  writeFileSync(rest[0], imageOf(readFileSync(given.busybox)))
}
