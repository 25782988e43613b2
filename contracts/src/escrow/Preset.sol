// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrow} from "../IEscrow.sol";

/// @title The network preset
/// @notice What terms must stay within, fixed at deployment; and the guards every room uses.
abstract contract Preset is IEscrow {
    uint32 internal immutable MIN_WINDOW;
    uint32 internal immutable MAX_WINDOW;
    uint32 internal immutable MIN_CLAIM_WINDOW;
    uint32 internal immutable MAX_CLAIM_WINDOW;
    uint32 internal immutable MAX_DURATION;
    uint32 internal immutable THAW_PERIOD;

    constructor(Limits memory limits_) {
        if (
            limits_.minWindow == 0 || limits_.minWindow > limits_.maxWindow
                || limits_.minClaimWindow == 0 || limits_.minClaimWindow > limits_.maxClaimWindow
                || limits_.maxDuration == 0
        ) revert Escrow_BadLimits();
        MIN_WINDOW = limits_.minWindow;
        MAX_WINDOW = limits_.maxWindow;
        MIN_CLAIM_WINDOW = limits_.minClaimWindow;
        MAX_CLAIM_WINDOW = limits_.maxClaimWindow;
        MAX_DURATION = limits_.maxDuration;
        THAW_PERIOD = limits_.thawPeriod;
    }

    function limits() external view returns (Limits memory) {
        return Limits(
            MIN_WINDOW, MAX_WINDOW, MIN_CLAIM_WINDOW, MAX_CLAIM_WINDOW, MAX_DURATION, THAW_PERIOD
        );
    }

    // ------------------------------------------------------------------------------------- guards

    function _notBefore(uint256 first) internal view {
        if (block.timestamp < first) revert Escrow_TooEarly(first);
    }

    function _notAfter(uint256 last) internal view {
        if (block.timestamp > last) revert Escrow_TooLate(last);
    }

    function _notZero(uint256 amount) internal pure {
        if (amount == 0) revert Escrow_ZeroAmount();
    }

    function _within(uint256 amount, uint256 min, uint256 max) internal pure {
        if (amount < min || amount > max) revert Escrow_AmountOutOfRange(amount, min, max);
    }
}
