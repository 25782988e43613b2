"""Limits: every bound of the market, each with its reason. Nothing here grows without one."""

from __future__ import annotations

from typing import Final

# The wire.
PROTOCOL_VERSION: Final = 1
ENVELOPE_BYTES_MAX: Final = 256 * 1024  # the pubsub frame cap; one message never fills it
GOSSIP_BYTES_MAX: Final = 16 * 1024  # 10 KiB of offers at most per second and peer is 1 % of a core
DEPTH_MAX: Final = 8  # the deepest message of ours nests 5 values
LIST_ITEMS_MAX: Final = 4096  # the longest list of ours; a reader makes room before it reads
CLOCK_SKEW_S: Final = 30  # a laptop without NTP still trades
ENVELOPE_LIFETIME_MAX_S: Final = 24 * 3600  # nothing signed for gossip lives longer than a day

# The book.
OFFERS_PER_PEER_MAX: Final = 64  # one Sybil costs us at most 64 rows of the book
OFFERS_MAX: Final = 1_000_000  # 116 MB of columns, of which a query reads about 40
OFFER_LIFETIME_MAX_S: Final = 3600  # a silent provider is out of every book within the hour
UNITS_PER_PROVIDER: Final = 256  # the on-chain unit map is one word
CACHED_IMAGES_MAX: Final = 32  # enough for a rig's warm set, 1 KiB of an offer

# Demands and quotes.
ANSWERS_MAX: Final = 8  # K: how many providers answer one demand
ACCELERATOR_CHOICES_MAX: Final = 16  # an any-of list is written by hand
REGIONS_MAX: Final = 32
NODES_MAX: Final = 64  # a gang across providers
DEMANDS_PER_PEER_MAX: Final = 64  # pending demands we remember of one requester
QUOTES_PER_DEMAND_MAX: Final = 160  # twice the largest gang, K and latecomers; more is a flood
QUOTE_WINDOW_S: Final = 2.0  # how long a requester listens before it chooses
HOLD_S: Final = 30  # a hold outlives the quote window, staging answers and one block

# Jobs.
NAME_CHARS_MAX: Final = 64
COMMAND_BYTES_MAX: Final = 32 * 1024
ENVS_MAX: Final = 128
ENV_BYTES_MAX: Final = 8 * 1024
SECRET_BYTES_MAX: Final = ENV_BYTES_MAX - 48  # what sealing adds to it
FILES_MAX: Final = 256  # inputs and results named in one message; larger trees travel as one tar
ARTIFACT_BYTES_MAX: Final = 64 * 1024**3
IMAGE_LAYERS_MAX: Final = 128  # overlay and every registry stop there too
INDEX_ENTRIES_MAX: Final = 256  # an image for every machine there is has about 20
MANIFEST_BYTES_MAX: Final = 4 * 1024**2  # what the OCI specification asks registries to take
IMAGES_MAX: Final = 256  # images a node remembers the parts of
TUNNELS_PER_PEER_MAX: Final = 32  # of the channels to one peer; blobs and requests keep the rest
TUNNELS_MAX: Final = 512  # open through one node at once
EXECUTIONS_PER_PEER_MAX: Final = 8  # shells that one requester has open at one provider
EXECUTIONS_MAX: Final = 64  # in all jobs of one node: each is a process or two of ours
ARGUMENTS_MAX: Final = 256
ARGUMENT_BYTES_MAX: Final = 8 * 1024
EGRESS_MAX: Final = 32  # targets a job may name
GANG_QUEUE_BYTES_MAX: Final = 4 * 1024**2  # for one other node: a TCP window of Linux's largest
GANG_QUEUES_BYTES_MAX: Final = 32 * 1024**2  # for all of them: what one job costs its node
GANG_FRAME_BYTES_MAX: Final = 256 * 1024  # packets sent together; a bigger frame only adds delay
GANG_PACKETS_PER_S_MAX: Final = 20_000  # each way: small ones cost a tenth of a core at that rate
GANG_IDLE_S: Final = 60.0  # nothing to send for so long: the channel is closed, and opened again
GANG_RETRY_S: Final = 1.0  # to a node that does not answer: as often as TCP first tries again
RESULTS_KEPT_S: Final = 7 * 24 * 3600  # a user is back from a holiday to fetch them
LOG_BYTES_MAX: Final = 64 * 1024**2  # what the shim keeps of one job's output
LOG_READ_BYTES_MAX: Final = 64 * 1024
JOB_FILE_BYTES_MAX: Final = 256 * 1024
JOB_DURATION_MAX_S: Final = 30 * 24 * 3600
ATTEMPTS_MAX: Final = 16  # failures of providers that one job may use up before it fails
ATTEMPTS_KEPT_MAX: Final = 64  # attempts in all, moves and preemptions with them
STAND_S: Final = 30.0  # a demand stands open so long; providers queue it meanwhile ...
STAND_MAX_S: Final = 120.0  # ... and longer in each later round, up to this
LATE_QUOTES_S: Final = 0.5  # after the first acceptable late quote others have so long to follow
JOBS_MAX: Final = 10_000
AGREEMENTS_MAX: Final = 20_000
RECORD_BYTES_MAX: Final = 4 * 1024**2  # a job with every variable and secret full
HISTORY_MAX: Final = 128  # state changes remembered per job

# Certificates.
CHALLENGES_EVERY_S: Final = 30.0  # a challenge costs the challenged seconds of a whole unit
FLOW_BYTES: Final = 64 * 1024**2  # each way and peer: half a second of a gigabit line
FLOW_S: Final = 4.0  # a slow line is known by what came in that time
FLOW_PEERS: Final = 4  # asked at once: one slow line does not hide ours
FLOWS_PER_HOUR: Final = 32  # lent to others: 2 GiB an hour, whoever asks

# Conversation.
RETRY_S: Final = 2.0  # a duty is performed at most once in this time
RETRY_CHAIN_S: Final = 6.0  # a transaction needs a block before it makes sense to try again
LOST_INTERVALS: Final = 3  # silence of so many heartbeat intervals ...
LOST_CONTACTS: Final = 3  # ... and as many failed direct contacts mean a provider is lost
EVENTS_PER_BEAT_MAX: Final = 1024  # a beat of the keeper stays short under a flood
REQUEST_TIMEOUT_S: Final = 10.0
CHUNK_BYTES: Final = 1024 * 1024  # one unit of credit in a transfer
CREDIT_CHUNKS: Final = 2  # at most so many unacknowledged chunks in flight
OPEN_MARGIN_S: Final = 15  # an opening mined in the last second is seen so much later at most
FINAL_GRACE_S: Final = 60  # how long each side waits for the other's last word
DELIVER_MAX_S: Final = 3600  # results that take longer than an hour go through a checkpoint
STAGE_MAX_S: Final = 1800  # an image that takes half an hour is a provider without a line
REFUSALS_MAX: Final = 5  # a transaction refused so often is not going to be accepted
PAY_AHEAD_S: Final = 30  # a challenge must be paid up when it is mined, not when it is signed
CHAIN_LAG_S: Final = 1  # blocks are stamped in whole seconds
