// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowEvents} from "./IEscrowEvents.sol";

/// @title The escrow of gridsouk
/// @notice A ledger that holds deposits and stake, and divides them by signed terms, vouchers and
/// heartbeats. It knows nothing of GPUs, jobs or peers. No owner, no pause, no upgrade.
///
/// Words: a *wallet* owns money (requester, provider); its *signer* is the hot key of its node,
/// named in the terms; an *operator* is a signer that the wallet has authorised on chain.
/// Wherever a signature is asked for, an EMPTY signature means: the sender of the call signs.
/// Wherever terms are asked for, the agreement's id is their EIP-712 digest.
interface IEscrow is IEscrowEvents {
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
