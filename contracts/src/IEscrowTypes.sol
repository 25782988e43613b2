// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The words of the escrow
/// @notice What parties sign (EIP-712) and what the contract remembers of it.
interface IEscrowTypes {
    // ------------------------------------------------------------------ signed structs (EIP-712)

    /// @param requester wallet that pays
    /// @param provider wallet that is paid, and whose stake backs the agreement
    /// @param requesterSigner hot key (ECDSA) that signs vouchers
    /// @param providerSigner hot key (ECDSA) that signs heartbeats
    /// @param token ERC-20, or zero for the native coin
    /// @param arbiter account that may rule a dispute, or zero
    struct Parties {
        address requester;
        address provider;
        address requesterSigner;
        address providerSigner;
        address token;
        address arbiter;
    }

    /// @param deposit the most the requester pays, locked from its free balance
    /// @param collateral locked from the provider's stake
    /// @param pricePerHour base units of the token per unit-hour
    /// @param bond locked beside the deposit; goes to the provider that answers a challenge
    /// @param slashBps share of the collateral lost to an unanswered challenge, in 1/10000
    /// @param victimShareBps share of what is slashed that the requester gets; the rest is burned
    /// @param equivocationBps share of the collateral lost to equivocation; 0 switches it off
    struct Money {
        uint96 deposit;
        uint96 collateral;
        uint96 pricePerHour;
        uint96 bond;
        uint16 slashBps;
        uint16 victimShareBps;
        uint16 equivocationBps;
    }

    /// @param openBy last second (unix time) at which the agreement may be opened
    /// @param duration seconds after opening for which the provider can be held to it
    /// @param startGrace seconds after opening in which the provider cannot be challenged
    /// @param window seconds to answer a challenge; also the cooldown between challenges
    /// @param claimWindow seconds to hand in vouchers after the end or the requester's close
    /// @param offlineAllowance seconds that may be claimed on heartbeats alone
    /// @param arbiterWindow seconds the arbiter has to rule
    struct Timing {
        uint40 openBy;
        uint32 duration;
        uint32 startGrace;
        uint32 window;
        uint32 claimWindow;
        uint32 offlineAllowance;
        uint32 arbiterWindow;
    }

    /// @param units bitmap over the provider's 256 unit slots
    /// @param job hash that binds the job, the machine and the peer ids
    /// @param salt makes otherwise equal terms differ
    struct Terms {
        Parties parties;
        Money money;
        Timing timing;
        uint256 units;
        bytes32 job;
        bytes32 salt;
    }

    /// @notice The requester's promise of a cumulative amount.
    /// @param ack hash of the last heartbeat the requester accepted
    /// @param last the requester agrees that the agreement ends at this amount
    struct Voucher {
        bytes32 agreement;
        uint96 amount;
        bytes32 ack;
        bool last;
    }

    /// @notice The provider's statement of progress.
    /// @param challenge nonce of the challenge it answers, or zero
    struct Heartbeat {
        bytes32 agreement;
        uint64 sequence;
        uint40 at;
        uint32 meteredSeconds;
        uint48 challenge;
        bytes32 state;
    }

    /// @notice A division both parties sign.
    struct Settlement {
        bytes32 agreement;
        uint96 paid;
        uint96 slashed;
    }

    /// @notice A top-up. Totals, not steps, so that a replay changes nothing.
    /// @param deposit total locked beyond the terms' deposit
    /// @param duration total seconds beyond the terms' duration
    struct Extension {
        bytes32 agreement;
        uint96 deposit;
        uint32 duration;
    }

    // ------------------------------------------------------------------------------------- state

    /// @dev Closed, Slashed and Cancelled are final and stay as tombstones against replay.
    enum Status {
        None,
        Open,
        ClosingByRequester,
        ClosingByProvider,
        Challenged,
        Disputed,
        Closed,
        Slashed,
        Cancelled
    }

    /// @param deadline Open: no challenge before it. Closing: finalize after it. Challenged: answer
    /// until it, slash after it. Disputed: rule until it, finalize after it.
    /// @param paid cumulative amount paid to the provider
    /// @param nonce the challenge the last heartbeat must name
    /// @param bonded whether a bond is locked for the next challenge
    /// @param offline how much of `paid` rests on heartbeats alone
    struct Agreement {
        Status status;
        uint40 openedAt;
        uint40 deadline;
        uint96 paid;
        uint48 nonce;
        bool bonded;
        uint96 extraDeposit;
        uint32 extraDuration;
        uint96 offline;
    }

    /// @notice The network preset: what terms must stay within. All in seconds.
    struct Limits {
        uint32 minWindow;
        uint32 maxWindow;
        uint32 minClaimWindow;
        uint32 maxClaimWindow;
        uint32 maxDuration;
        uint32 thawPeriod;
    }
}
