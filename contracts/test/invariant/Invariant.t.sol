// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {TestToken} from "../../src/TestToken.sol";
import {Handler} from "./Handler.sol";

contract InvariantTest is Test {
    Escrow internal escrow;
    TestToken internal token;
    Handler internal handler;

    function setUp() public {
        vm.warp(1_800_000_000);
        token = new TestToken();
        escrow = new Escrow(IEscrowTypes.Limits(60, 1 days, 600, 30 days, 90 days, 500));
        handler = new Handler(escrow, token);
        targetContract(address(handler));
    }

    function _live(bytes32 id) internal view returns (bool) {
        IEscrowTypes.Status status = escrow.agreement(id).status;
        return status != IEscrowTypes.Status.None && status < IEscrowTypes.Status.Closed;
    }

    /// @dev sum(free + stake + thawing) + burned + sum over live (deposit + extra - paid +
    /// collateral + bond if bonded) == tokens held, to the unit.
    function invariant_Conservation() public view {
        uint256 sum = escrow.burned(address(token));
        for (uint256 i; i < 4; ++i) {
            (uint256 free, uint256 staked, uint256 thawing,) =
                escrow.balance(address(token), handler.accounts(i));
            sum += free + staked + thawing;
        }
        for (uint256 i; i < handler.count(); ++i) {
            IEscrowTypes.Terms memory terms = handler.termsAt(i);
            bytes32 id = handler.ids(i);
            if (!_live(id)) continue;
            IEscrowTypes.Agreement memory a = escrow.agreement(id);
            sum += uint256(terms.money.deposit) + a.extraDeposit - a.paid;
            sum += terms.money.collateral + (a.bonded ? terms.money.bond : 0);
        }
        assertEq(sum, token.balanceOf(address(escrow)));
    }

    /// @dev The units of live agreements are disjoint, and their union is the provider's bitmap.
    function invariant_NoUnitTwice() public view {
        for (uint256 p = 2; p < 4; ++p) {
            address provider = handler.accounts(p);
            uint256 union;
            for (uint256 i; i < handler.count(); ++i) {
                IEscrowTypes.Terms memory terms = handler.termsAt(i);
                if (terms.parties.provider != provider || !_live(handler.ids(i))) continue;
                assertEq(union & terms.units, 0, "taken twice");
                union |= terms.units;
            }
            assertEq(escrow.unitsTaken(provider), union);
        }
    }

    /// @dev paid <= deposit, paid <= accrued, paid <= best voucher + offline allowance.
    function invariant_PaidIsBounded() public view {
        for (uint256 i; i < handler.count(); ++i) {
            IEscrowTypes.Terms memory terms = handler.termsAt(i);
            bytes32 id = handler.ids(i);
            IEscrowTypes.Agreement memory a = escrow.agreement(id);
            assertLe(a.paid, uint256(terms.money.deposit) + a.extraDeposit);
            uint256 duration = uint256(terms.timing.duration) + a.extraDuration;
            assertLe(a.paid, escrow.accrued(terms, duration));
            assertLe(
                a.paid,
                handler.bestVoucher(id) + escrow.accrued(terms, terms.timing.offlineAllowance)
            );
        }
    }

    /// @dev No voucher, heartbeat or close ever lowers a payment; no ended agreement comes back.
    function invariant_Monotone() public view {
        assertEq(handler.lowered(), 0);
        assertEq(handler.reopened(), 0);
    }

    /// @dev Whatever happened, a stranger can end every agreement once its time is over, and then
    /// nothing is locked.
    function afterInvariant() public {
        vm.warp(block.timestamp + 365 days);
        for (uint256 i; i < handler.count(); ++i) {
            bytes32 id = handler.ids(i);
            if (!_live(id)) continue;
            IEscrowTypes.Terms memory terms = handler.termsAt(i);
            if (escrow.agreement(id).status == IEscrowTypes.Status.Challenged) escrow.slash(terms);
            else escrow.finalize(terms);
            assertFalse(_live(id));
        }
        assertEq(escrow.unitsTaken(handler.accounts(2)), 0);
        assertEq(escrow.unitsTaken(handler.accounts(3)), 0);
        invariant_Conservation();
    }

    /// @dev The handler reaches what it should; a handler that only reverts proves nothing.
    function test_handler_ReachesEveryStep() public {
        uint256 seed = 0;
        for (uint256 i; i < 1500; ++i) {
            seed = uint256(keccak256(abi.encode(seed, i)));
            uint256 what = seed % 11;
            uint256 s = seed >> 16;
            if (what == 0) handler.deposit(s, uint64(s));
            if (what == 1) handler.withdraw(s, uint64(s % 1e9));
            if (what == 2) handler.restake(s, uint64(s % 1e9));
            if (what == 3) handler.open(s, s * 7919, uint64(s >> 64));
            if (what == 4) handler.claim(s, uint64(s >> 32), s % 7 == 0);
            if (what == 5) handler.claimOffline(s, uint32(s >> 32));
            if (what == 6) handler.extend(s, uint32(s >> 32));
            if (what == 7) handler.challenge(s, uint48(s >> 32));
            if (what == 8) handler.answer(s);
            if (what == 9) handler.equivocate(s);
            if (what == 10) handler.close(s);
        }
        string[12] memory names = [
            "deposit",
            "withdraw",
            "restake",
            "open",
            "claim",
            "settle",
            "claimOffline",
            "extend",
            "challenge",
            "answer",
            "equivocate",
            "close"
        ];
        for (uint256 i; i < names.length; ++i) {
            assertGt(handler.calls(names[i]), 0, names[i]);
        }
        invariant_Conservation();
        invariant_NoUnitTwice();
        invariant_PaidIsBounded();
        invariant_Monotone();
    }
}
