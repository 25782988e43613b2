// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The escrow of gridsouk
/// @notice A ledger that holds deposits and stake, and divides them by signed terms, vouchers and
/// heartbeats. It knows nothing of GPUs, jobs or peers. No owner, no pause, no upgrade.
///
/// Words: a *wallet* owns money (requester, provider); its *signer* is the hot key of its node,
/// named in the terms; an *operator* is a signer that the wallet has authorised on chain.
/// Wherever a signature is asked for, an EMPTY signature means: the sender of the call signs.
/// Wherever terms are asked for, the agreement's id is their EIP-712 digest.
interface IEscrow {
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

    // ------------------------------------------------------------------------------------ events

    event Deposited(address indexed token, address indexed account, address from, uint256 amount);
    event Withdrawn(address indexed token, address indexed account, uint256 amount);
    event Staked(address indexed token, address indexed account, uint256 amount);
    /// @param thawing total now thawing; all of it is free to leave at `thawedAt`
    event UnstakeStarted(
        address indexed token,
        address indexed account,
        uint256 amount,
        uint256 thawing,
        uint256 thawedAt
    );
    event Unstaked(address indexed token, address indexed account, uint256 amount);
    event Authorised(
        address indexed account,
        address indexed operator,
        address indexed token,
        uint256 allowance,
        uint256 expiry
    );
    event Revoked(address indexed account, address indexed operator, address indexed token);
    /// @notice An operator locked `amount` of `account`; its allowance fell by as much, unless it is
    /// unlimited.
    event AllowanceUsed(
        address indexed account, address indexed operator, address indexed token, uint256 amount
    );

    event Opened(
        bytes32 indexed id,
        address indexed requester,
        address indexed provider,
        address token,
        uint96 deposit,
        uint96 collateral,
        uint96 bond,
        uint256 units,
        uint256 end,
        bytes32 job
    );
    event Extended(bytes32 indexed id, uint96 extraDeposit, uint32 extraDuration);
    /// @param paid cumulative; @param offline how much of it rests on heartbeats alone
    event Claimed(bytes32 indexed id, uint96 paid, uint96 offline);
    /// @notice A fresh bond was locked for a challenge; the one of `Opened` was already spent.
    event Bonded(bytes32 indexed id, uint96 bond);
    event Challenged(bytes32 indexed id, uint48 nonce, uint256 deadline);
    /// @notice Back to Open; the bond went to the provider.
    event Answered(bytes32 indexed id, uint64 sequence, uint256 nextChallenge);
    event Closing(bytes32 indexed id, address indexed by, uint256 deadline);
    event Disputed(bytes32 indexed id, uint256 deadline);
    /// @notice The bond went to the requester if `slashed` is not zero, else to the provider.
    event Ruled(bytes32 indexed id, uint96 slashed);
    /// @notice Always followed by Closed.
    event Slashed(bytes32 indexed id, uint256 slashed, uint256 toVictim, uint256 burned);
    /// @notice The end: units freed, `refunded` of the deposit and a bond still locked back to the
    /// requester, collateral not slashed back to the provider's stake.
    event Closed(bytes32 indexed id, uint96 paid, uint256 refunded);
    event Cancelled(bytes32 indexed id);
    /// @notice An item of settleMany failed with `reason` (the revert data) and was left out.
    event SettleSkipped(bytes32 indexed id, bytes reason);

    // ------------------------------------------------------------------------------------ errors

    error Escrow_BadLimits();
    error Escrow_ZeroAmount();
    error Escrow_ZeroAddress();
    error Escrow_NativeToken();
    /// @notice The token gave less (or more) than it was asked for: it takes fees or rebases.
    error Escrow_WrongAmountReceived(address token, uint256 received, uint256 expected);
    error Escrow_NativeTransferFailed(address account, uint256 amount);
    error Escrow_InsufficientFree(address token, address account, uint256 free, uint256 needed);
    error Escrow_InsufficientStake(address token, address account, uint256 stake, uint256 needed);
    error Escrow_StillThawing(uint256 thawedAt);

    error Escrow_BadTerms(bytes32 field);
    error Escrow_OpenByPassed(uint256 openBy);
    error Escrow_UnitsTaken(address provider, uint256 taken);
    error Escrow_WrongStatus(bytes32 id, Status status);
    error Escrow_WrongAgreement(bytes32 expected, bytes32 given);
    error Escrow_BadSignature(address account);
    error Escrow_NotAuthorised(
        address account, address operator, uint256 allowance, uint256 needed
    );
    error Escrow_NotParty(address sender);
    error Escrow_NothingToClaim(bytes32 id, uint96 paid);
    error Escrow_TooEarly(uint256 notBefore);
    error Escrow_TooLate(uint256 deadline);
    error Escrow_NotPaidUp(uint256 paid, uint256 owed);
    error Escrow_BadNonce(uint48 nonce);
    error Escrow_NotEquivocation();
    error Escrow_AmountOutOfRange(uint256 amount, uint256 min, uint256 max);
    error Escrow_LengthMismatch();

    // ------------------------------------------------------------------------------- the accounts

    /// @notice Credits the sender's free balance. A token that delivers another amount is refused.
    function deposit(address token, uint256 amount) external;

    /// @notice Credits another account's free balance from the sender's tokens.
    function depositFor(address token, address account, uint256 amount) external;

    /// @notice permit, then deposit. A permit that somebody already submitted does no harm.
    function depositWithPermit(
        address token,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Credits the sender's free balance of token zero.
    function depositNative() external payable;

    /// @notice Pays out of the sender's free balance, to the sender only.
    function withdraw(address token, uint256 amount) external;

    /// @notice Moves free balance to stake, which backs agreements as their collateral.
    function stake(address token, uint256 amount) external;

    /// @notice Moves stake that no agreement locks to thawing. A second call restarts the clock
    /// for all of it. Thawing amounts back no new agreement and are never slashed.
    function unstake(address token, uint256 amount) external;

    /// @notice Moves what has thawed to the free balance.
    function completeUnstake(address token) external;

    /// @notice Lets `operator` open, extend and re-bond agreements in which it is the account's
    /// signer, locking at most `allowance` in all, until `expiry` (inclusive). Replaces what was
    /// set before. type(uint128).max is unlimited and is not used up. A refund does NOT restore
    /// allowance: it is a cap on all that the operator ever locks, so a stolen key cannot turn the
    /// same money over again and again.
    function authorise(address operator, address token, uint128 allowance, uint40 expiry) external;

    function revoke(address operator, address token) external;

    // ------------------------------------------------------------------------------ the agreement

    /// @notice Locks deposit and bond (requester's free), collateral (provider's stake) and units.
    /// By anyone with both signatures. A party's signature is its wallet's (ECDSA or ERC-1271) or
    /// that of its signer, if the wallet has authorised it.
    function open(
        Terms calldata terms,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external returns (bytes32 id);

    /// @notice Opens all or none.
    function openMany(
        Terms[] calldata terms,
        bytes[] calldata requesterSignatures,
        bytes[] calldata providerSignatures
    ) external returns (bytes32[] memory ids);

    /// @notice Makes terms that were never opened unopenable. By either wallet or signer.
    function cancel(Terms calldata terms) external;

    /// @notice Raises deposit or duration of an open agreement. By anyone with the requester's
    /// signature (as in open); a longer duration also needs the provider's or its signer's.
    function extend(
        Terms calldata terms,
        Extension calldata extension,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external;

    /// @notice Pays min(voucher, deposit, accrued so far) less what is already paid. By anyone, in
    /// any live state. Reverts if that is nothing.
    function claim(Terms calldata terms, Voucher calldata voucher, bytes calldata signature)
        external;

    /// @notice Pays for metered seconds that no voucher covers, at most `offlineAllowance` seconds
    /// beyond the best voucher seen. By anyone with the provider's heartbeat.
    function claimOffline(
        Terms calldata terms,
        Heartbeat calldata heartbeat,
        bytes calldata signature
    ) external;

    /// @notice Claims the voucher; if it is `last`, closes at once, else as providerClose. By the
    /// provider or its signer.
    function settle(Terms calldata terms, Voucher calldata voucher, bytes calldata signature)
        external;

    /// @notice Settles each; one that fails is left out with an event.
    function settleMany(
        Terms[] calldata terms,
        Voucher[] calldata vouchers,
        bytes[] calldata signatures
    ) external;

    /// @notice Closes as both parties signed. A signer's signature counts only if nothing is
    /// slashed; a requester's signer may not pay more than has accrued.
    function closeSigned(
        Terms calldata terms,
        Settlement calldata settlement,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external;

    /// @notice Ends the agreement; the provider has `claimWindow` to hand in its best voucher. By
    /// the requester or its signer.
    function requesterClose(Terms calldata terms) external;

    /// @notice Ends the agreement: at once after a requesterClose or past the end without arbiter;
    /// otherwise the requester has `window` to challenge. By the provider or its signer.
    function providerClose(Terms calldata terms) external;

    /// @notice Closes what nobody may contest any more. By anyone.
    function finalize(Terms calldata terms) external;

    /// @notice Asks the provider for a sign of life. By the requester or its signer, paid up to
    /// `startGrace` seconds ago (the voucher is claimed first), with the locked bond or a fresh
    /// one. `nonce` must be unpredictable and not zero.
    function challenge(
        Terms calldata terms,
        Voucher calldata voucher,
        bytes calldata signature,
        uint48 nonce
    ) external;

    /// @notice Ends a challenge with a heartbeat that names its nonce. By anyone, in time.
    function answer(Terms calldata terms, Heartbeat calldata heartbeat, bytes calldata signature)
        external;

    /// @notice Closes an unanswered challenge: `slashBps` of the collateral is lost. By anyone.
    function slash(Terms calldata terms) external;

    /// @notice Closes on two different heartbeats with one sequence: `equivocationBps` is lost. By
    /// anyone, in any live state.
    function slashEquivocation(
        Terms calldata terms,
        Heartbeat calldata first,
        bytes calldata firstSignature,
        Heartbeat calldata second,
        bytes calldata secondSignature
    ) external;

    /// @notice Calls the arbiter, with the bond at risk. By the requester or its signer.
    function dispute(Terms calldata terms) external;

    /// @notice Closes a dispute: `slashed` of the collateral is lost. By the arbiter, in time.
    function rule(Terms calldata terms, uint96 slashed) external;

    // -------------------------------------------------------------------------------------- views

    /// @return free what can be withdrawn, staked or locked as a deposit
    /// @return staked what can back new agreements
    /// @return thawing what leaves the stake
    /// @return thawedAt when it may
    function balance(address token, address account)
        external
        view
        returns (uint256 free, uint256 staked, uint256 thawing, uint256 thawedAt);

    /// @notice What has been slashed and given to nobody.
    function burned(address token) external view returns (uint256);

    function authorisation(address account, address operator, address token)
        external
        view
        returns (uint128 allowance, uint40 expiry);

    /// @notice Bitmap of the provider's units that live agreements hold.
    function unitsTaken(address provider) external view returns (uint256);

    function agreement(bytes32 id) external view returns (Agreement memory);

    function limits() external view returns (Limits memory);

    /// @notice floor(pricePerHour * popcount(units) * durationS / 3600)
    function accrued(Terms calldata terms, uint256 durationS) external pure returns (uint256);

    function agreementId(Terms calldata terms) external view returns (bytes32);

    function voucherDigest(Voucher calldata voucher) external view returns (bytes32);

    function heartbeatDigest(Heartbeat calldata heartbeat) external view returns (bytes32);

    function settlementDigest(Settlement calldata settlement) external view returns (bytes32);

    function extensionDigest(Extension calldata extension) external view returns (bytes32);

    function domainSeparator() external view returns (bytes32);

    /// @notice ERC-5267: the EIP-712 domain in words.
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        );
}
