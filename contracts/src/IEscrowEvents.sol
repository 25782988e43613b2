// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowTypes} from "./IEscrowTypes.sol";

/// @title What the escrow says
/// @notice The events alone rebuild every balance, authorisation, unit and agreement, to the unit
/// and the second (test/replay). What went wrong is an error with the numbers in it.
interface IEscrowEvents is IEscrowTypes {
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

    /// @param challengeFrom first second in which the provider can be challenged
    /// @param end first second in which the provider cannot be held to it any more
    event Opened(
        bytes32 indexed id,
        address indexed requester,
        address indexed provider,
        address token,
        uint96 deposit,
        uint96 collateral,
        uint96 bond,
        uint256 units,
        uint40 openedAt,
        uint40 challengeFrom,
        uint256 end
    );
    event Extended(bytes32 indexed id, uint96 extraDeposit, uint32 extraDuration);
    /// @param paid cumulative, credited to the provider
    /// @param offline how much of it rests on heartbeats alone
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
}
