// What the market says: the live offers, as gossip and "sync" brought them, each one verified.

import { encode, sha256 } from './codec.mjs'
import { signedBy } from './envelope.mjs'

const CERTIFICATE = Buffer.from('gridsouk/certificate/1\n')

export class Market {
  #pages = new Map() // peer and page -> {sequence, offers, raw}

  /** Takes an opened `offers`; the newest of a peer's pages counts. */
  hear ({ author, sequence, message }, raw) {
    const name = `${author.toString('hex')} ${message.page}`
    if ((this.#pages.get(name)?.sequence ?? -1n) >= BigInt(sequence)) return
    const offers = message.offers.filter(offer => offer.peer.equals(author))
    this.#pages.set(name, { sequence: BigInt(sequence), offers, raw })
  }

  offers () {
    const now = Date.now() / 1000
    return [...this.#pages.values()].flatMap(page => page.offers)
      .filter(offer => Number(offer.expires_at_s) > now)
  }

  /** `Sync.known` */
  known () {
    return [...this.#pages.values()].filter(page => page.raw).map(page => sha256(page.raw))
  }
}

/** An offer in a line; `certified` if its certificate is there and signed by its peer. */
export function shown (offer) {
  const certified = offer.certificate !== null &&
    offer.certificate.certificate.peer.equals(offer.peer) &&
    signedBy(offer.peer, Buffer.concat([CERTIFICATE, encode('Certificate', offer.certificate.certificate)]), offer.certificate.signature)
  return {
    peer: offer.peer.toString('hex'),
    gpu_name: offer.gpu_name,
    free: offer.num_gpus,
    units: offer.num_units,
    price_per_hour: String(offer.price_per_hour),
    certified
  }
}
