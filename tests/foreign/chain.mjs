// "Chain signatures (EIP-712)": digests and signatures, and the escrow whose ABI is committed.

import { readFileSync } from 'node:fs'
import { Contract, JsonRpcProvider, SigningKey, TypedDataEncoder, Wallet, computeAddress, recoverAddress, getBytes } from 'ethers'
import { chainTypes, kinds } from './page.mjs'

const ABI = JSON.parse(readFileSync(new URL('../../contracts/artifacts/Escrow.json', import.meta.url))).abi
const TOKEN_ABI = JSON.parse(readFileSync(new URL('../../contracts/artifacts/TestToken.json', import.meta.url))).abi

/** "Terms(Parties parties,...)Money(...)": the types in it, the first one being the main one. */
function typesOf (name) {
  const found = {}
  for (const [, type, fields] of chainTypes[name].matchAll(/(\w+)\(([^)]*)\)/g)) {
    found[type] = fields.split(',').map(field => {
      const [kind, called] = field.split(' ')
      return { type: kind, name: called }
    })
  }
  return found
}

/** A value of ours as the chain names it: the same fields in the same order. */
export function onChain (name, value) {
  const types = typesOf(name)
  const convert = (type, given) => {
    const ours = Object.keys(kinds[type].fields)
    return Object.fromEntries(types[type].map(({ type: kind, name: called }, index) => {
      const field = given[ours[index]]
      if (types[kind]) return [called, convert(kind, field)]
      return [called, Buffer.isBuffer(field) ? '0x' + field.toString('hex') : field]
    }))
  }
  return convert(name, value)
}

export function typedDigest (name, value, { chainId, escrow }) {
  const domain = { name: 'gridsouk', version: '1', chainId, verifyingContract: escrow }
  return Buffer.from(getBytes(TypedDataEncoder.hash(domain, typesOf(name), onChain(name, value))))
}

/** An operator key: {address: 20 bytes, sign(digest): 65 bytes}. */
export function operatorKey (secret) {
  const key = new SigningKey(secret)
  return {
    address: bytes(computeAddress(key)),
    sign: digest => bytes(key.sign(digest).serialized)
  }
}

export function signerOf (digest, signature) {
  if (signature.length !== 65 || (signature[64] !== 27 && signature[64] !== 28)) {
    throw new Error('not a chain signature')
  }
  return bytes(recoverAddress(digest, '0x' + signature.toString('hex')))
}

export const bytes = hex => Buffer.from(getBytes(hex))
const hex = data => '0x' + data.toString('hex')

/** One wallet on one chain. */
export class Chain {
  static async connect ({ rpc, escrow, token, wallet }) {
    const provider = new JsonRpcProvider(rpc, undefined, { pollingInterval: 250, cacheTimeout: -1 })
    const chain = new Chain()
    chain.provider = provider
    chain.wallet = new Wallet(wallet, provider)
    chain.escrow = new Contract(escrow, ABI, chain.wallet)
    chain.token = new Contract(token, TOKEN_ABI, chain.wallet)
    chain.domain = { chainId: (await provider.getNetwork()).chainId, escrow }
    return chain
  }

  get address () { return bytes(this.wallet.address) }

  /** Play money into the escrow, and the operator's leave to spend some of it. */
  async fund (operator, amount) {
    const token = await this.token.getAddress()
    const escrow = await this.escrow.getAddress()
    let nonce = await this.wallet.getNonce()
    const expiry = Math.floor(Date.now() / 1000) + 86_400
    const given = { gasLimit: 300_000 } // not estimated: each leans on the one before it
    const sent = [
      await this.token.mint(this.wallet.address, amount, { ...given, nonce: nonce++ }),
      await this.token.approve(escrow, amount, { ...given, nonce: nonce++ }),
      await this.escrow.deposit(token, amount, { ...given, nonce: nonce++ }),
      await this.escrow.authorise(hex(operator), token, amount, expiry, { ...given, nonce: nonce++ })
    ]
    for (const tx of sent) await tx.wait()
  }

  /** Backs agreements with so much of what was deposited. */
  async stake (amount) {
    await (await this.escrow.stake(await this.token.getAddress(), amount)).wait()
  }

  async settle (terms, voucher, signature) {
    const args = [onChain('Terms', terms), onChain('Voucher', voucher), hex(signature)]
    await (await this.escrow.settle(...args)).wait()
  }

  /** Opens the agreement; returns when, in Unix seconds. */
  async open (terms, requesterSignature, providerSignature) {
    const tx = await this.escrow.open(onChain('Terms', terms), hex(requesterSignature), hex(providerSignature))
    const block = await this.provider.getBlock((await tx.wait()).blockNumber)
    return block.timestamp
  }

  /** {paid, refunded} once the agreement is closed. */
  async closed (agreement, from = 0) {
    while (true) {
      const found = await this.escrow.queryFilter(this.escrow.filters.Closed(hex(agreement)), from)
      if (found.length > 0) return { paid: found[0].args.paid, refunded: found[0].args.refunded }
      await new Promise(resolve => setTimeout(resolve, 250))
    }
  }

  stop () { this.provider.destroy() }
}
