// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

/// @notice The money's arithmetic for every input there is: halmos proves check_* (tools/analyse.sh).
/// Each assumes what the contract's types and guards give. Products of two unknowns time out in every
/// solver, so what Arithmetic multiplies is fuzzed (Fuzz.t.sol), and lemmas here start after it.
contract MoneySymbolic is Test {
    /// @dev _closeSlashed: with shares no more than their wholes, the collateral splits to the unit.
    function check_slash_SplitConserves(uint96 collateral, uint96 slashed, uint96 toVictim)
        public
        pure
    {
        if (slashed > collateral || toVictim > slashed) return;
        uint256 burned = uint256(slashed) - toVictim;
        uint256 back = uint256(collateral) - slashed;
        assert(toVictim + burned + back == collateral);
    }

    /// @dev _takeVoucher: whatever the voucher, what is paid does not fall, nor pass the deposit.
    function check_voucher_PaymentIsMonotone(
        uint96 paid,
        uint96 offline,
        uint96 amount,
        uint96 deposit,
        uint256 accrued
    ) public pure {
        if (paid > deposit || offline > paid) return;
        uint256 payable_ = accrued < deposit ? accrued : deposit;
        uint256 vouched = amount < payable_ ? amount : payable_;
        uint256 after_ = vouched > paid ? vouched : paid;
        assert(after_ >= paid);
        assert(after_ <= deposit);
        // what rests on heartbeats alone never exceeds what is paid
        uint256 left =
            vouched > paid ? 0 : vouched > uint256(paid) - offline ? paid - vouched : offline;
        assert(left <= after_);
    }

    /// @dev _close: deposit and collateral go out to the last unit, with or without a bond.
    function check_close_DividesAllThatWasLocked(
        uint96 deposit,
        uint96 extra,
        uint96 paid,
        uint96 bond,
        bool bonded,
        uint96 collateral,
        uint96 slashed,
        uint96 toVictim
    ) public pure {
        uint256 locked = uint256(deposit) + extra;
        if (paid > locked || slashed > collateral || toVictim > slashed) return;
        uint256 before = locked - paid + collateral + (bonded ? bond : 0);
        uint256 toRequester = locked - paid + (bonded ? bond : 0) + toVictim;
        uint256 toProvider = uint256(collateral) - slashed;
        uint256 burned = uint256(slashed) - toVictim;
        assert(toRequester + toProvider + burned == before);
        assert(toRequester <= type(uint128).max); // so the unchecked sums of _close fit
    }

    /// @dev The word of an agreement: what is stored is what is loaded, field by field.
    function check_word_RoundTrips(
        uint8 status,
        uint40 openedAt,
        uint40 deadline,
        uint96 paid,
        uint48 nonce,
        bool bonded
    ) public pure {
        uint256 word = uint256(status) | (uint256(openedAt) << 8) | (uint256(deadline) << 48)
            | (uint256(paid) << 88) | (uint256(nonce) << 184) | (bonded ? 1 << 232 : 0);
        assert(uint8(word) == status);
        assert(uint40(word >> 8) == openedAt);
        assert(uint40(word >> 48) == deadline);
        assert(uint96(word >> 88) == paid);
        assert(uint48(word >> 184) == nonce);
        assert(((word >> 232) & 1 != 0) == bonded);
        assert((word >> 233) & 1 == 0);
    }

    /// @dev Units: taking and freeing leave every other unit as it was.
    function check_units_FreeingUndoesTaking(uint256 taken, uint256 units) public pure {
        uint256 mark = 1 << 255;
        uint256 low = taken | mark;
        if (low & units & ~mark != 0) return;
        uint256 after_ = ((low | units | mark) & ~units) | mark;
        assert(after_ & ~mark == low & ~mark);
    }
}
