// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Arithmetic} from "../../src/escrow/Arithmetic.sol";
import {Base} from "../Base.t.sol";

contract FuzzTest is Base {
    function testFuzz_accrued_CountsBits(uint96 price, uint256 units, uint32 seconds_) public view {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.money.pricePerHour = price;
        terms.units = units;
        uint256 count;
        for (uint256 bits = units; bits != 0; bits &= bits - 1) {
            ++count;
        }
        assertEq(escrow.accrued(terms, seconds_), uint256(price) * count * uint256(seconds_) / 3600);
    }

    function testFuzz_share_NeverMoreThanTheWhole(uint96 amount, uint16 bps) public pure {
        bps = uint16(bound(bps, 0, 10_000));
        assertLe(uint256(amount) * bps, uint256(amount) * 10_000);
        assertLe(Arithmetic.share(amount, bps), amount);
        assertEq(Arithmetic.share(amount, 10_000), amount);
    }

    function testFuzz_popcount_CountsEveryBit(uint256 x, uint8 bit) public pure {
        x &= ~(1 << bit);
        assertEq(Arithmetic.popcount(x | (1 << bit)), Arithmetic.popcount(x) + 1);
        assertEq(Arithmetic.popcount(type(uint256).max), 256);
        assertEq(Arithmetic.popcount(0), 0);
    }

    /// @dev Whatever the vouchers and their order, the provider has the best payable one, and the
    /// sum is conserved.
    function testFuzz_vouchers_TheBestOneCounts(uint96[6] memory amounts, uint16[6] memory waits)
        public
    {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        uint256 now_ = START; // a cached block.timestamp may survive vm.warp
        uint256 best;
        for (uint256 i; i < amounts.length; ++i) {
            now_ += waits[i] % 1500;
            vm.warp(now_);
            uint256 amount = amounts[i] % (2 * DEPOSIT);
            (IEscrowTypes.Voucher memory voucher, bytes memory signature) =
                voucherOf(id, amount, false);
            uint256 elapsed = now_ - START < DURATION ? now_ - START : DURATION;
            uint256 payable_ = elapsed * PER_SECOND;
            if (payable_ > DEPOSIT) payable_ = DEPOSIT;
            if (payable_ > amount) payable_ = amount;
            if (payable_ > best) best = payable_;
            uint256 before = escrow.agreement(id).paid;
            try escrow.claim(terms, voucher, signature) {} catch {}
            assertEq(escrow.agreement(id).paid, best);
            assertGe(best, before);
        }
        settle(terms, 0, true);
        assertMoved(best, 0, 0, 0);
    }

    function testFuzz_slash_SplitConserves(uint96 collateral, uint16 slashBps, uint16 victimBps)
        public
    {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.money.collateral = uint96(bound(collateral, 0, 60e6));
        terms.money.slashBps = uint16(bound(slashBps, 0, 10_000));
        terms.money.victimShareBps = uint16(bound(victimBps, 0, 10_000));
        open(terms);
        vm.warp(START + GRACE);
        challenge(terms, 1);
        vm.warp(START + GRACE + WINDOW + 1);
        escrow.slash(terms);
        uint256 slashed = uint256(terms.money.collateral) * terms.money.slashBps / 10_000;
        uint256 victim = slashed * terms.money.victimShareBps / 10_000;
        assertMoved(GRACE * PER_SECOND, victim, slashed - victim, 0);
    }

    function testFuzz_units_NeverTwice(uint256 first, uint256 second) public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.units = first == 0 ? 1 : first;
        terms.money.collateral = 0;
        open(terms);
        IEscrowTypes.Terms memory other = makeTerms();
        other.units = second == 0 ? 1 : second;
        other.money.collateral = 0;
        other.salt = bytes32(uint256(1));
        bytes32 id = escrow.agreementId(other);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        uint256 taken = terms.units & other.units;
        if (taken != 0) {
            vm.expectRevert(
                abi.encodeWithSelector(IEscrowEvents.Escrow_UnitsTaken.selector, provider, taken)
            );
            escrow.open(other, a, b);
            assertEq(escrow.unitsTaken(provider), terms.units);
        } else {
            escrow.open(other, a, b);
            assertEq(escrow.unitsTaken(provider), terms.units | other.units);
            settle(terms, 0, true);
            assertEq(escrow.unitsTaken(provider), other.units);
        }
    }

    /// @dev Offline claims never pass the best voucher by more than the allowance.
    function testFuzz_offline_Bounded(uint16[4] memory vouched, uint16[4] memory metered) public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        uint256 best;
        uint256 now_ = START;
        for (uint256 i; i < 4; ++i) {
            now_ += 1000;
            vm.warp(now_);
            uint256 amount = uint256(vouched[i]) * 100;
            uint256 cap = (now_ - START) * PER_SECOND;
            if (amount > cap) amount = cap;
            (IEscrowTypes.Voucher memory voucher, bytes memory signature) =
                voucherOf(id, amount, false);
            try escrow.claim(terms, voucher, signature) {} catch {}
            if (amount > best) best = amount;
            (IEscrowTypes.Heartbeat memory beat, bytes memory beatSignature) =
                heartbeatOf(id, uint64(i), metered[i], 0);
            try escrow.claimOffline(terms, beat, beatSignature) {} catch {}
            IEscrowTypes.Agreement memory agreement = escrow.agreement(id);
            assertLe(agreement.paid, best + OFFLINE * PER_SECOND);
            assertLe(agreement.paid, cap);
            assertGe(agreement.paid, best);
        }
    }
}
