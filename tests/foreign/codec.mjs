// "Encoding": canonical msgpack, written and read by the types of the page.
//
// Integers are numbers up to 2^53 and BigInt above; bytes are Buffers; a value is a plain object.

import { createHash } from 'node:crypto'
import { kinds } from './page.mjs'

const TOO_BIG = 1n << 64n // "those of 2^64 and more travel as big-endian bytes"
const DEPTH_MAX = 8

/** The canonical bytes of a value of the kind that the page calls `name`. */
export function encode (name, value) {
  const parts = []
  write(parts, { is: 'value', of: name }, value, name)
  return Buffer.concat(parts)
}

/** The value in `data`; throws for bytes that are not its one spelling. */
export function decode (name, data) {
  const at = { data: Buffer.from(data), offset: 0 }
  const value = typed({ is: 'value', of: name }, read(at, 0), name)
  if (at.offset !== at.data.length) throw new Error(`${name}: bytes behind its end`)
  if (!encode(name, value).equals(at.data)) throw new Error(`${name} is not in its canonical form`)
  return value
}

/** "the SHA-256 of the canonical bytes" */
export const digest = (name, value) => sha256(encode(name, value))
export const sha256 = data => createHash('sha256').update(data).digest()

// ---- writing ---------------------------------------------------------------------------------

function write (parts, type, value, where) {
  switch (type.is) {
    case 'optional':
      return value == null ? parts.push(byte(0xc0)) : write(parts, type.of, value, where)
    case 'bool':
      if (typeof value !== 'boolean') throw new Error(`${where} must be true or false`)
      return parts.push(byte(value ? 0xc3 : 0xc2))
    case 'int':
      return parts.push(integer(bounded(type, BigInt(value), where)))
    case 'text': {
      const bytes = Buffer.from(value, 'utf8')
      bounded(type, bytes.length, where)
      return parts.push(head(bytes.length, 0xa0, 31, [0xd9, 0xda, 0xdb]), bytes)
    }
    case 'bytes':
      bounded(type, value.length, where)
      return parts.push(binary(value))
    case 'list':
      bounded(type, value.length, where)
      parts.push(head(value.length, 0x90, 15, [null, 0xdc, 0xdd]))
      return value.forEach((item, index) => write(parts, type.of, item, `${where}[${index}]`))
    case 'value':
      return writeValue(parts, type.of, value, where)
  }
}

function writeValue (parts, name, value, where) {
  const kind = kinds[name]
  if (kind === undefined) throw new Error(`the page has no ${name}`)
  if (kind.words) {
    if (!kind.words.includes(value)) throw new Error(`${where} must be one of ${kind.words}`)
    return write(parts, { is: 'text', low: 0, high: 64 }, value, where)
  }
  const names = Object.keys(kind.fields).sort()
  if (Object.keys(value).sort().join() !== names.join()) {
    throw new Error(`${where} must have exactly the fields ${names}`)
  }
  parts.push(head(names.length, 0x80, 15, [null, 0xde, 0xdf]))
  for (const field of names) {
    write(parts, { is: 'text', low: 0, high: 64 }, field, field)
    write(parts, kind.fields[field], value[field], `${where}.${field}`)
  }
}

function bounded (type, size, where) {
  if (size < type.low || size > type.high) {
    throw new Error(`${where}: ${size} is not in ${type.low}..${type.high}`)
  }
  return size
}

function integer (value) {
  if (value >= TOO_BIG) return binary(bytesOf(value))
  if (value >= 0n) {
    if (value < 0x80n) return byte(Number(value))
    for (const [mark, size] of [[0xcc, 1], [0xcd, 2], [0xce, 4], [0xcf, 8]]) {
      if (value < 1n << BigInt(8 * size)) return marked(mark, size, value)
    }
  }
  if (value >= -32n) return byte(Number(value) & 0xff)
  for (const [mark, size] of [[0xd0, 1], [0xd1, 2], [0xd2, 4], [0xd3, 8]]) {
    const bits = BigInt(8 * size)
    if (value >= -(1n << (bits - 1n))) return marked(mark, size, BigInt.asUintN(Number(bits), value))
  }
}

function binary (value) {
  return Buffer.concat([head(value.length, null, -1, [0xc4, 0xc5, 0xc6]), value])
}

function head (size, short, shortMax, marks) {
  if (size <= shortMax) return byte(short | size)
  const index = size < 0x100 && marks[0] !== null ? 0 : size < 0x10000 ? 1 : 2
  return marked(marks[index], 1 << index, BigInt(size))
}

const byte = value => Buffer.from([value])
const marked = (mark, size, value) =>
  Buffer.from(mark.toString(16) + value.toString(16).padStart(2 * size, '0'), 'hex')

function bytesOf (value) {
  const hex = value.toString(16)
  return Buffer.from(hex.padStart(hex.length + hex.length % 2, '0'), 'hex')
}

// ---- reading ---------------------------------------------------------------------------------

function take (at, size) {
  if (at.offset + size > at.data.length) throw new Error('the bytes end too early')
  at.offset += size
  return at.data.subarray(at.offset - size, at.offset)
}

function unsigned (at, size) {
  return BigInt('0x' + take(at, size).toString('hex'))
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function read (at, depth) {
  if (depth > 2 * DEPTH_MAX) throw new Error('nested too deep')
  const mark = take(at, 1)[0]
  const counted = size => Number(unsigned(at, size))
  if (mark < 0x80) return BigInt(mark)
  if (mark < 0x90) return readMap(at, mark & 15, depth)
  if (mark < 0xa0) return readList(at, mark & 15, depth)
  if (mark < 0xc0) return utf8.decode(take(at, mark & 31))
  if (mark >= 0xe0) return BigInt(mark - 0x100)
  switch (mark) {
    case 0xc0: return null
    case 0xc2: return false
    case 0xc3: return true
    case 0xc4: case 0xc5: case 0xc6: return take(at, counted(1 << (mark - 0xc4)))
    case 0xcc: case 0xcd: case 0xce: case 0xcf: return unsigned(at, 1 << (mark - 0xcc))
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: {
      const size = 1 << (mark - 0xd0)
      return BigInt.asIntN(8 * size, unsigned(at, size))
    }
    case 0xd9: case 0xda: case 0xdb: return utf8.decode(take(at, counted(1 << (mark - 0xd9))))
    case 0xdc: case 0xdd: return readList(at, counted(2 << (mark - 0xdc)), depth)
    case 0xde: case 0xdf: return readMap(at, counted(2 << (mark - 0xde)), depth)
  }
  throw new Error(`msgpack of a kind that does not travel: 0x${mark.toString(16)}`)
}

function readList (at, count, depth) {
  const items = []
  for (let index = 0; index < count; index++) items.push(read(at, depth + 1))
  return items
}

function readMap (at, count, depth) {
  const found = new Map()
  for (let index = 0; index < count; index++) {
    const name = read(at, depth + 1)
    if (typeof name !== 'string') throw new Error('a field has a name that is no text')
    found.set(name, read(at, depth + 1))
  }
  return found
}

/** What was read, as the page's type has it. Bounds are checked by the writing that follows. */
function typed (type, raw, where) {
  if (type.is === 'optional') return raw === null ? null : typed(type.of, raw, where)
  if (type.is === 'list' && Array.isArray(raw)) {
    return raw.map((item, index) => typed(type.of, item, `${where}[${index}]`))
  }
  if (type.is === 'int') {
    if (Buffer.isBuffer(raw)) raw = BigInt('0x' + (raw.toString('hex') || '0'))
    if (typeof raw === 'bigint') return type.high > Number.MAX_SAFE_INTEGER ? raw : Number(raw)
  }
  if (type.is === 'bool' && typeof raw === 'boolean') return raw
  if (type.is === 'text' && typeof raw === 'string') return raw
  if (type.is === 'bytes' && Buffer.isBuffer(raw)) return raw
  if (type.is === 'value' && kinds[type.of]?.words && typeof raw === 'string') return raw
  if (type.is === 'value' && raw instanceof Map) {
    const fields = kinds[type.of].fields
    const value = {}
    for (const [name, part] of raw) {
      if (!(name in fields)) throw new Error(`${where} has a field too many: ${name}`)
      value[name] = typed(fields[name], part, `${where}.${name}`)
    }
    return value
  }
  throw new Error(`${where} must be ${type.is}`)
}
