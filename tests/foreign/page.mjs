// The page itself: reads the tables of docs/PROTOCOL.md, so that this peer knows no more of the
// messages than the page says. A field that the page has wrong is a field that we have wrong.

import { readFileSync } from 'node:fs'

const PAGE = new URL('../../docs/PROTOCOL.md', import.meta.url)

/** name -> {fields: {name: type}} for a value, {words: [..]} for an enumeration. */
export const kinds = {}
/** The words that an envelope's `kind` may be, with their ways: "gossip", "request", "reply". */
export const words = {}
/** "Chain signatures": the name in the first column -> its EIP-712 type. */
export const chainTypes = {}

function read (text) {
  const sections = text.split(/^##+ /m)
  for (const section of sections) {
    const title = section.split('\n', 1)[0].trim()
    const rows = [...section.matchAll(/^\| (.*)\|$/gm)].map(row => row[1].split('|').map(cell => cell.trim()))
    const header = rows[0]?.[0]
    const one = section.match(/^One of (`.*`)\.$/m)
    if (header === 'field') {
      kinds[title] = { fields: Object.fromEntries(rows.slice(1).map(fieldOf)) }
    } else if (header === 'word in the envelope') {
      for (const [link, way] of rows.slice(1)) words[link.match(/`(.*)`/)[1]] = way.split(', ')
    } else if (header === 'value') {
      for (const row of rows.slice(1)) chainTypes[bare(row[0])] = bare(row[2])
    } else if (one) {
      kinds[title] = { words: one[1].split(', ').map(bare) }
    }
  }
  for (const word of Object.keys(words)) kinds[word] ??= { fields: {} } // a message without fields
}

const bare = cell => cell.replaceAll('`', '')
const fieldOf = row => [bare(row[0]), typeOf(row[1])]

// The notation of "Encoding": bool; int a..b; text(a..b); bytes(a..b); bytes(32); list(a..b) of X;
// X or nil; [Name](#name).
function typeOf (text) {
  let found
  if (text.endsWith(' or nil')) return { is: 'optional', of: typeOf(text.slice(0, -7)) }
  if ((found = text.match(/^list\((\d+)\.\.(\d+)\) of (.*)$/))) {
    return { is: 'list', low: +found[1], high: +found[2], of: typeOf(found[3]) }
  }
  if ((found = text.match(/^int (\S+)\.\.(\S+)$/))) {
    return { is: 'int', low: number(found[1]), high: number(found[2]) }
  }
  if ((found = text.match(/^(text|bytes)\((\d+)(?:\.\.(\d+))?\)$/))) {
    return { is: found[1], low: +found[2], high: +(found[3] ?? found[2]) }
  }
  if (text === 'bool') return { is: 'bool' }
  if ((found = text.match(/^\[(\w+)\]\(#\w+\)$/))) return { is: 'value', of: found[1] }
  throw new Error(`the page has a type that it does not explain: ${text}`)
}

function number (text) {
  const power = text.match(/^2\^(\d+)-1$/)
  return power ? (1n << BigInt(power[1])) - 1n : BigInt(text)
}

read(readFileSync(PAGE, 'utf8'))
