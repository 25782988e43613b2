// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title The escrow's arithmetic
/// @notice Pure, so that fuzzers and provers can have it alone (test/symbolic).
library Arithmetic {
    uint256 internal constant BPS = 10_000;

    /// @notice floor(price * units * seconds / 3600): rounds down, for the requester.
    /// @param price below 2^96; @param durationS below 2^64, so that no product leaves 2^169
    function accrued(uint256 price, uint256 units, uint256 durationS)
        internal
        pure
        returns (uint256)
    {
        return price * popcount(units) * durationS / 3600;
    }

    /// @notice A share of an amount below 2^96: rounds down, for the provider, then for the burn.
    function share(uint256 amount, uint256 bps) internal pure returns (uint256) {
        return amount * bps / BPS;
    }

    /// @dev Counts set bits: pairs, nibbles, bytes, then the bytes' sum by one multiplication per
    /// half, because a sum of 256 does not fit in a byte.
    function popcount(uint256 x) internal pure returns (uint256) {
        unchecked {
            x -= (x >> 1) & 0x5555555555555555555555555555555555555555555555555555555555555555;
            x = (x & 0x3333333333333333333333333333333333333333333333333333333333333333)
                + ((x >> 2) & 0x3333333333333333333333333333333333333333333333333333333333333333);
            x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f;
            x = (x & 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff)
                + ((x >> 8) & 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff);
            return (x * 0x0001000100010001000100010001000100010001000100010001000100010001) >> 240;
        }
    }
}
