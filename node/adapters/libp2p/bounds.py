"""Bounds: what one peer, and all of them, may cost this node. Numbers with their reasons."""

from __future__ import annotations

from typing import Final

from market.limits import CHUNK_BYTES, CREDIT_CHUNKS

# Gossip. One core carries some 250 copies a second (see docs); these bounds keep a rude peer below.
RPC_BYTES_MAX: Final = 256 * 1024  # one pubsub frame; 15 full messages
OUT_QUEUE_MAX: Final = 1024  # frames waiting for one slow peer; a burst of 400 must survive
HEARD_MAX: Final = 8192  # messages waiting for the node: half a minute at full rate
SEEN_MAX: Final = 65_536  # ids per generation: two minutes at twice the rate of a full core
SEEN_S: Final = 120.0
FORWARD_PER_S: Final = 256  # tokens per peer: every message of the network may come through it
FORWARD_BURST: Final = 2048
AUTHOR_PER_S: Final = 64  # what one identity may inject, however many peers carry it
AUTHOR_BURST: Final = 512
AUTHORS_MAX: Final = 8192  # authors whose rate is remembered
IDS_PER_CONTROL_MAX: Final = 256  # message ids in one IHAVE; a heartbeat's worth
WANTED_PER_CONTROL_MAX: Final = 64  # of them answered per IWANT: 1 MiB at most
GOSSIP_STREAMS_PER_PEER_MAX: Final = 3  # one, and two more while it is re-opened

# Strikes. Points decay; a peer that reaches the limit is cut off for a while.
STRIKES_MAX: Final = 16.0
STRIKE_MALFORMED: Final = 4.0  # an unreadable frame: our own software never sends one
STRIKE_FORGED: Final = 2.0  # a message whose signature does not hold
STRIKE_BLAMED: Final = 1.0  # the node found the content malformed
STRIKE_LIMITED: Final = 1 / 64  # one message over the rate
STRIKES_DECAY_PER_S: Final = 0.1
CUT_OFF_S: Final = 600.0

# Connections and streams.
CONNECTIONS_MAX: Final = 400
CONNECTIONS_PER_PEER_MAX: Final = 3  # both sides may dial at once
HALF_OPEN_PER_IP_MAX: Final = 32  # handshakes in progress; a slow loris holds no more than these
HANDSHAKE_S: Final = 10.0
NEGOTIATE_S: Final = 10.0
INBOUND_STREAMS_PER_PEER_MAX: Final = 64
UNREAD_BYTES_MAX: Final = 12 * 1024 * 1024  # what one connection may leave unread in our memory
WRITE_STALL_S: Final = 30.0  # a socket that takes nothing for so long is dead
CREDIT_WAIT_S: Final = 60.0  # yamux's own flow control; our readers never stall it

# Requests.
REQUESTS_PER_PEER_MAX: Final = 32  # in flight, each way
REQUEST_STREAMS_PER_PEER_MAX: Final = 16  # ours use one; others open one for each request
ANSWER_S: Final = 60.0  # an answerer that takes longer has lost its asker long ago

# Channels.
CHANNELS_PER_PEER_MAX: Final = 48  # most of them tunnels, of which a peer has 32 at most
FRAMES_IN_FLIGHT_MAX: Final = 64  # small frames, such as lines of a log
CREDIT_BYTES: Final = CHUNK_BYTES * CREDIT_CHUNKS
SLICE_BYTES: Final = 256 * 1024  # bulk yields to gossip after each slice
GOODBYE_S: Final = 5.0

# Peers.
ADDRESSES_PER_PEER_MAX: Final = 4
ADDRESS_BYTES_MAX: Final = 256  # a name of DNS and a peer id; what the messages hold
ADDRESSES_MAX: Final = 1024  # peers in the address book
ADDRESSES_SHARED_MAX: Final = 32
DIALS_MAX: Final = 8  # at once
DIAL_S: Final = 10.0
BACK_OFF_MIN_S: Final = 1.0
BACK_OFF_MAX_S: Final = 300.0
JOINED_MAX: Final = 256  # unread joins per listener

# Relaying for others: a peer behind NAT costs us a connection we have anyway, a circuit our line.
RELAY_RESERVATIONS_MAX: Final = 128  # a third of the connections; the rest is for our own market
RELAY_RESERVATIONS_PER_IP_MAX: Final = 16  # one host with many keys does not take them all
RELAY_RESERVATION_S: Final = 3600  # what the standard proposes; it ends with the connection anyway
RELAY_CIRCUITS_MAX: Final = 32  # each still gets 125 kB/s, so that its pings come in time
RELAY_CIRCUITS_PER_PEER_MAX: Final = 8  # at either end: a provider's jobs, not a stranger's crowd
RELAY_BYTES_PER_S: Final = 4_000_000  # all circuits together, unless the owner says otherwise
RELAY_IDLE_S: Final = 120.0  # a live circuit carries a ping each 15 s
RELAY_CIRCUIT_S: Final = 4 * 3600  # then it is dialled anew, by then perhaps directly
RELAY_ASKS_PER_S: Final = 1.0  # reservations and calls of one peer
RELAY_ASKS_BURST: Final = 16.0
RELAY_SLICE_BYTES: Final = 64 * 1024  # circuits take turns after each

# Being relayed.
RELAYS_MAX: Final = 2  # one may die without a gap
RELAY_MESSAGE_BYTES_MAX: Final = 4096  # of the circuit protocol, as other implementations have it
RELAY_REFUSED_S: Final = 30.0  # until we ask a relay again that has refused
SHORTCUT_FIRST_S: Final = 1.0  # after a relayed peer was met: it has said its addresses by then
SHORTCUT_AGAIN_S: Final = 600.0  # routers and networks change
RELAYED_UNUSED_S: Final = 600.0  # without request or channel; the relay has few circuits
FINDERS_MAX: Final = 4  # peers asked, at once, where another one is

# Finding out whether we are reachable.
DIAL_BACK_PORTS_MAX: Final = 2  # we try what one may listen on, not what it wants scanned
DIAL_BACK_S: Final = 5.0
DIAL_BACKS_MAX: Final = 4  # at once, for all askers
DIAL_BACKS_PER_S: Final = 1 / 30
DIAL_BACKS_BURST: Final = 4.0
REACH_AGAIN_S: Final = 600.0  # routers restart and addresses change
