"""Protocol text: what docs/PROTOCOL.md says in sentences. The numbers in them are the code's own.

Written for whoever builds a peer in another language and reads nothing else of this project.
"""

from __future__ import annotations

import dataclasses

from market import limits, product
from market.errors import (
    CodecError,
    LimitError,
    MarketError,
    NotFoundError,
    RefusedError,
    SignatureError,
    StaleError,
)
from market.signing import _PREFIX
from node.adapters.libp2p import bounds, channel, circuit, network, peers, pubsub, requests
from node.adapters.libp2p.host import NetworkConfig
from node.artifacts import PROTOCOL as BLOB
from node.bandwidth import PROTOCOL as BANDWIDTH
from node.certify import PROTOCOL as CHALLENGE
from node.config import Config
from node.mail import DIRECT_LIFETIME_S
from node.tunnels.accept import PROTOCOL as TUNNEL
from node.tunnels.execute import PROTOCOL as EXEC
from node.tunnels.gang import PROTOCOL as GANG

_REFUSALS: tuple[type[MarketError], ...] = (
    CodecError, SignatureError, StaleError, LimitError, RefusedError, NotFoundError,
)  # fmt: skip


def introduction() -> str:
    """What the page is, and where its examples are."""
    return f"""Version {limits.PROTOCOL_VERSION}. Names, types and bounds are those of \
`market/messages.py` and `market/terms.py`;
`market/codec.py` enforces them.

`tests/golden/wire.json` has the exact bytes of an example of everything on this page, made from
this page and not from our code: every message and frame, an envelope with its signature, digests,
and bytes that a reader must refuse. `tests/foreign` is a peer in JavaScript that was written from
this page; it reads the tables below where they stand, rents a unit of one of our nodes, and is
tested against the same file.
"""


def encoding() -> str:
    """How a value becomes bytes."""
    return f"""## Encoding

Canonical msgpack. A value is a map of its field names in sorted order, all of them and no others.
Text is msgpack's `str`, bytes are its `bin`, a list is its `array`, each with the shortest form
that holds its length. Integers take their shortest form; those of 2^64 and more travel as `bin`,
big-endian without leading zeros. There are no floats and no extension types. An enumeration travels
as its word, what is absent as `nil`. Nesting is at most {limits.DEPTH_MAX} deep. Bytes that do \
not encode back to
themselves are refused, so that a value has one spelling.

Bounds: `int a..b`; `text(a..b)` in UTF-8 bytes; `bytes(a..b)`, `bytes(32)` for exactly 32;
`list(a..b) of X`; `X or nil` may be absent. Addresses are 20 bytes, amounts base units of the
settlement token, prices base units per unit-hour. Names end in their unit: `_s` seconds, `_ms` and
`_us` less, `_ppm` millionths, `_bps` ten-thousandths; `_at_s`, `_by_s`, `_until_s`, `_at_ms` and
`_by_ms` are Unix time.
"""


def refusals() -> str:
    """What a reader refuses of envelopes."""
    prefix = _PREFIX.decode().replace("\n", "\\n")
    codes = ", ".join(f"`{kind.code}`" for kind in _REFUSALS)
    return f"""A reader refuses, in this order:

1. more than {limits.ENVELOPE_BYTES_MAX} bytes, or bytes that are no canonical sealing and envelope;
2. a `version` other than {limits.PROTOCOL_VERSION};
3. another `network`: a node's is its preset and chain id, like `devnet-31337`;
4. a `to` that is neither the reader's key nor 32 zero bytes;
5. an `expires_at_ms` that is past, an `issued_at_ms` more than {limits.CLOCK_SKEW_S} s ahead, a \
lifetime of more than {limits.ENVELOPE_LIFETIME_MAX_S} s;
6. a signature that is not the author's Ed25519 signature of `"{prefix}"` and the envelope's bytes;
7. a `kind` that is not in the table of messages, or a `body` that does not decode as it. `body` is
   the message's own canonical bytes.

A direct request must be signed by the peer that the connection's handshake proved, and its reply
by the peer that was asked. Direct messages live {DIRECT_LIFETIME_S:g} s. Whatever is refused in a \
request is answered with
`refused`, whose `code` is one of {codes} or, for our own
trouble, another word. The same request may come again: it is answered as before, and changes
nothing twice.
"""


def transport() -> str:
    """The streams and what flows in them."""
    topics = ", ".join(f"`{topic}`" for topic in _topics())
    config = {f.name: f.default for f in dataclasses.fields(NetworkConfig)}
    return f"""## Transport

libp2p over TCP, `/noise` and `/yamux/1.0.0`, chosen by `/multistream/1.0.0`. Every peer has an
Ed25519 key, which is its name; others are not let in. A peer has at most \
{bounds.CONNECTIONS_PER_PEER_MAX} connections and
{bounds.INBOUND_STREAMS_PER_PEER_MAX} streams open to us. Every {config["ping_interval_s"]:g} s we \
ask `{peers.PING}`, and drop who says nothing for
{config["ping_timeout_s"]:g} s; a peer that does not speak it and says so stays. Identify is of \
use, not a duty: the
address that a peer claims is told to others if it is on the host that it connects from.

- **Gossip**: gossipsub, `{pubsub.PROTOCOL}`, topics {topics}; at most \
{limits.GOSSIP_BYTES_MAX} bytes of data a message.
  The data is a sealing. `offers` goes to the first topic, `wanted` and `unwanted` to the second.
  StrictSign: `from` holds the publisher's Ed25519 key, `seqno` is 8 bytes, both together are the
  message's id, never used twice. Who publishes need not be the author of the envelope.
  Gossip only reaches who is there: say again what shall be known, and `sync` on connecting.
- **Requests**: `{network.REQUESTS}`, one long-lived stream per peer and direction; we take
  up to {bounds.REQUEST_STREAMS_PER_PEER_MAX} of a peer, and answer on those whose asker has ended \
its side. Frames are
  `size (4) | kind (1) | id (8) | payload`, big-endian; `size` counts what follows it. Kinds:
  {requests.ASK} a message, {requests.ASK_PEERS} a question for other peers, {requests._REPLY} the \
reply, {requests._FAILED} not answered (the payload says why, in UTF-8),
  {requests.ASK_DIAL_BACK} "dial me back".
  A reply has the id of its request, and replies come in any order. The payload of a message and of
  its reply is a sealing: a request's `to` is who is asked, a reply's who asked. At most \
{bounds.REQUESTS_PER_PEER_MAX} are in
  flight. A question for other peers has no payload, or the 32-byte key of the one that is looked
  for; its reply is a bare [`Known`](#known), which may be empty. "Dial me back" is a bare
  [`TryMe`](#tryme), answered by [`Tried`](#tried). Neither is a duty: who does not know
  a kind answers {requests._FAILED}.
- **Relays**: circuit relay v2, `{circuit.HOP}` and
  `{circuit.STOP}`, without vouchers. The address of a peer behind one is
  `/ip4/../tcp/../p2p/RELAY/p2p-circuit/p2p/PEER`. To use and to be one is no duty.
- **Channels**: `/gridsouk/NAME/1`, one stream each. Frames are `kind (1) | size (4) | payload`; the
  kinds are DATA {channel._DATA}, ACK {channel._ACK}, END {channel._END}, ENDED {channel._ENDED}.
  Only DATA has a payload, of at most {limits.CHUNK_BYTES} bytes.
  The sender spends credit: {bounds.CREDIT_BYTES} bytes and {bounds.FRAMES_IN_FLIGHT_MAX} frames \
in flight at most. The reader gives it back
  as the application takes frames: one ACK for each DATA, in their order, with that frame's size in
  `size`. Who has said all sends END (size 0) and is answered ENDED (size 0) at once, then both let
  go of the stream; a stream that ends otherwise is a broken line. Always read: an ACK or an END
  may come while you send.
- **`{BLOB}`**: the asker sends `Fetch`, the other answers `Fetched` and the bytes from `offset` on,
  in frames of any size. The asker checks the announced size and the hash. A requester serves the
  image and the inputs of its manifest to the provider that it accepted; a provider serves results
  and checkpoints to the job's requester, and to anybody the parts of images that anybody may have.
- **`{TUNNEL}`**: a job's requester sends `Dial`, its provider answers `Dialled`; then every frame
  is bytes of one TCP connection, either way. An empty frame ends one way; a channel that ends
  before both ways have is a connection that broke.
- **`{CHALLENGE}`**: anybody sends `Challenge`, the provider multiplies and answers `Committed`;
  then `Show`, and for each row `Shown` and the row itself. See [below](#matrices-of-a-challenge).
- **`{BANDWIDTH}`**: anybody sends `Flow`, the other answers `Flowing`, and the bytes follow: \
{limits.FLOW_BYTES} at most,
  {limits.FLOWS_PER_HOUR} times an hour for all who ask.
- **`{EXEC}`**: a job's requester sends `Execute`, its provider answers `Executing`; then frames,
  until the one with the exit code. A channel that ends without it is a program that was killed.
- **`{GANG}`**: see [`Join`](#join); frames have at most {limits.GANG_FRAME_BYTES_MAX} bytes.

Peers that send what cannot be read, forged signatures or floods are cut off for \
{bounds.CUT_OFF_S:g} s. An author's
gossip counts up to {bounds.AUTHOR_PER_S} messages a second, a peer's relaying up to \
{bounds.FORWARD_PER_S}.
"""


def conversation() -> str:
    """The order in which things are said."""
    return f"""## The life of an agreement

```
requester                                        provider
sync                                       <-->  synced
wanted (gossip, again until it is met)      -->
                                           <--   quote (done)
release to the others (done), accept (done) -->  begins to stage
                                           <--   blob: the image, the inputs
open, on the chain                          ==>
                                           <--   beat (done), every interval and on news
pay (done), readlog, blob: checkpoints      -->
                                           <--   beat: exited, with the results
readlog, blob: the results                  -->
pay with `last` (done)                      -->  settle, on the chain
unwanted (gossip)                           -->
```

- **sync**: `known` are the SHA-256 of the sealings with live offers that the asker holds. `synced`
  has sealings: offers that were not named, and demands. Each is checked like gossip.
- **offers**: a provider signs for its own key only (`peer`), for an hour at most, and says them
  again before they expire. One page has at most 16 offers; `page` counts from 0 to `pages` - 1. A
  peer's newest sequence counts for each offer, and a single page withdraws what it does not name.
  `peer`, `provider` and `operator` are the key, the wallet that is paid and the key that signs for
  it on chain. `offer_id` is the provider's choice, and stays.
- **wanted**: `peer` is the author. A job (`job_id`) has one open demand, the newest; `demand_id` is
  new in each `round`. `requester` is the wallet that pays, `operator` the key that signs for it.
  Providers quote only if the escrow holds the deposit and the bond for that wallet, free, within
  the operator's allowance. `token` is the escrow's. Who knows no `coordinate` of its own sends
  zeros and `error_ppm` 1000000. At most {limits.DEMANDS_PER_PEER_MAX} demands of one peer are \
remembered.
- **quote**: a requester takes it until `quote_by_ms`, longer only if nobody answered. It checks
  that the offer is of the peer that sent it and still fits the requirements, and that the terms
  name its wallet and key, the offer's wallet and key, the token, no arbiter, a price within the
  bid, as many units as were asked for, the job, a duration of `max_duration_s` and not much more, a
  deposit of no more than price x units x duration, rounded up, and at least the offer's
  collateral and the demand's `slash_bps`. The agreement's id is the digest of the terms. The
  provider writes them: `units` has the bits of slots that it has not sold (`unitsTaken` of the
  escrow), `salt` is random, the windows are within the escrow's `limits()`, and its own wallet has
  staked the collateral and authorised its operator.
- **accept**: before `hold_until_s`; the signature is the `operator`'s over the same digest. A
  single job has `rank` 0, `num_nodes` 1 and no `members`. `secrets` are sealed boxes (libsodium's
  `crypto_box_seal`) to the provider's peer key, converted to X25519.
- **open**: `open(terms, requesterSignature, providerSignature)` of the escrow, by anybody, before
  `open_by_s`. Its ABI is in `contracts/artifacts/Escrow.json`, its rules in `contracts/README.md`.
  The wallet has deposited, and has authorised the operator, before.
- **beat**: the first has sequence 1; each is sent again until it is answered `done`. It may come
  before the requester has seen its own opening. The requester checks that it is of the agreement,
  that `state` is the digest of the report, and that the offer's operator signed it.
- **pay**: amounts are cumulative, floor(price x units x seconds / 3600) and at most the deposit,
  for the newest `metered_s`, but no more seconds than have passed since the opening plus one
  interval. A provider ends the work when more seconds than `offline_allowance_s` and \
{limits.LOST_INTERVALS} intervals
  are not paid for.
- **the end**: a report whose `work` is `exited`, `broken` or `preempted` is the last word on the
  work, and names its results. The requester fetches them, then sends a voucher with `last`, whose
  amount may be the one before. With it the provider settles in one transaction; without it, after
  {limits.FINAL_GRACE_S} s and the escrow's windows. `stop` ends the work early; all else is the \
same.
- **silence**: a requester asks with `status`, answered with the newest `beat`, or `done` if there
  is none. After {limits.LOST_INTERVALS} intervals and {limits.LOST_CONTACTS} vain questions our \
nodes challenge on chain.
"""


def matrices() -> str:
    """What is multiplied in a challenge."""
    return f"""## Matrices of a challenge

n is the `size`. A and B are n x n, entries 0 to 7. All arithmetic of an entry is on unsigned 32-bit
numbers: with `k` = {product.LEFT} for A and {product.RIGHT} for B, w0 and w1 the first two \
little-endian words of SHA-256(seed, byte k),
x = (i n + j) 0x9E3779B1 + w0; x ^= x >> 16; x *= 0x85EBCA6B; x ^= w1; x ^= x >> 13;
x *= 0xC2B2AE35; x ^= x >> 16; the entry is x & 7. A row of the product C = A B travels as n
little-endian 32-bit numbers. Leaf i is SHA-256(0x00, i in 4 big-endian bytes, the row); a node is
SHA-256(0x01, left, right); an odd one out is paired with itself. `path` has the sibling of each
level, the leaves' first. {product.ROWS_SHOWN} rows are asked for, and checked with a random \
vector r modulo {product.PRIME}:
C r = A (B r).
"""


def chain() -> str:
    """The page's words on signatures for the chain."""
    return """## Chain signatures (EIP-712)

Made by operator keys; checked by the other node and by the contract. The domain's name is
`gridsouk`, its version `1`, its contract the escrow. A node takes 65 bytes r, s, v, with v 27 or 28
and a low s. The digest of the terms is the agreement's id, here and on chain. The fields of a type
are those of our value of that name, in the order of its table.
"""


def _topics() -> tuple[str, ...]:
    field = next(f for f in dataclasses.fields(Config) if f.name == "topics")
    topics: tuple[str, ...] = field.default  # type: ignore[assignment]  # dataclasses keep it untyped
    return topics
