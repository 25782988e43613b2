// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {TestToken} from "../../src/TestToken.sol";
import {Replay} from "../replay/Replay.sol";
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

    /// @dev One campaign for all of them: forge walks once for each function named invariant_.
    function invariant_Always() public view {
        always_Conservation();
        always_NoUnitTwice();
        always_PaidIsBounded();
        always_Monotone();
        always_LogsRebuildEverything();
    }

    function _live(bytes32 id) internal view returns (bool) {
        IEscrowTypes.Status status = escrow.agreement(id).status;
        return status != IEscrowTypes.Status.None && status < IEscrowTypes.Status.Closed;
    }

    /// @dev sum(free + stake + thawing), and what live agreements lock.
    function _held() internal view returns (uint256 balances, uint256 locked) {
        for (uint256 i; i < 4; ++i) {
            (uint256 free, uint256 staked, uint256 thawing,) =
                escrow.balance(address(token), handler.accounts(i));
            balances += free + staked + thawing;
        }
        for (uint256 i; i < handler.count(); ++i) {
            IEscrowTypes.Terms memory terms = handler.termsAt(i);
            bytes32 id = handler.ids(i);
            if (!_live(id)) continue;
            IEscrowTypes.Agreement memory a = escrow.agreement(id);
            locked += uint256(terms.money.deposit) + a.extraDeposit - a.paid;
            locked += terms.money.collateral + (a.bonded ? terms.money.bond : 0);
        }
    }

    /// @dev sum(free + stake + thawing) + burned + sum over live (deposit + extra - paid +
    /// collateral + bond if bonded) == tokens held == deposits - withdrawals, to the unit.
    function always_Conservation() public view {
        (uint256 balances, uint256 locked) = _held();
        uint256 sum = balances + locked + escrow.burned(address(token));
        assertEq(sum, token.balanceOf(address(escrow)), "tokens held");
        assertEq(sum, handler.deposited() - handler.withdrawn(), "deposits less withdrawals");
    }

    /// @dev The units of live agreements are disjoint, and their union is the provider's bitmap.
    function always_NoUnitTwice() public view {
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

    /// @dev paid <= deposit, paid <= accrued, paid <= best voucher + offline allowance (what both
    /// wallets signed for counts as a voucher without end, and is bounded by the deposit alone).
    function always_PaidIsBounded() public view {
        for (uint256 i; i < handler.count(); ++i) {
            IEscrowTypes.Terms memory terms = handler.termsAt(i);
            bytes32 id = handler.ids(i);
            IEscrowTypes.Agreement memory a = escrow.agreement(id);
            assertLe(a.paid, uint256(terms.money.deposit) + a.extraDeposit);
            uint256 duration = uint256(terms.timing.duration) + a.extraDuration;
            if (_live(id)) assertLe(a.paid, escrow.accrued(terms, duration));
            assertLe(
                a.paid,
                handler.bestVoucher(id) + escrow.accrued(terms, terms.timing.offlineAllowance)
            );
        }
    }

    /// @dev No voucher, heartbeat or close ever lowers a payment; no ended agreement comes back.
    function always_Monotone() public view {
        assertEq(handler.lowered(), 0);
        assertEq(handler.reopened(), 0);
    }

    /// @dev Logs alone give every balance, allowance, unit and agreement.
    function always_LogsRebuildEverything() public view {
        Replay replay = handler.REPLAY();
        assertEq(replay.burned(address(token)), escrow.burned(address(token)), "burned");
        for (uint256 i; i < 4; ++i) {
            address account = handler.accounts(i);
            assertEq(_sheet(replay, account), _balance(account), "balance");
            assertEq(replay.units(account), escrow.unitsTaken(account), "units");
            assertEq(
                _given(replay, account, handler.signers(i)),
                _authorisation(account, handler.signers(i)),
                "allowance"
            );
        }
        for (uint256 i; i < handler.count(); ++i) {
            bytes32 id = handler.ids(i);
            IEscrowTypes.Agreement memory told = replay.agreement(id);
            IEscrowTypes.Agreement memory a = escrow.agreement(id);
            assertEq(abi.encode(told), abi.encode(a), "agreement");
            if (!_live(id)) continue;
            (,,,,,,, uint256 end,) = replay.entries(id);
            assertEq(end, a.openedAt + handler.termsAt(i).timing.duration + a.extraDuration, "end");
        }
    }

    function _sheet(Replay replay, address account) private view returns (bytes memory) {
        (uint256 free, uint256 staked, uint256 thawing, uint256 at) =
            replay.sheets(address(token), account);
        return abi.encode(free, staked, thawing, at);
    }

    function _balance(address account) private view returns (bytes memory) {
        (uint256 free, uint256 staked, uint256 thawing, uint256 at) =
            escrow.balance(address(token), account);
        return abi.encode(free, staked, thawing, at);
    }

    function _given(Replay replay, address account, address operator)
        private
        view
        returns (bytes memory)
    {
        (uint256 allowance, uint256 expiry) = replay.allowance(account, operator, address(token));
        return abi.encode(allowance, expiry);
    }

    function _authorisation(address account, address operator) private view returns (bytes memory) {
        (uint128 allowance, uint40 expiry) = escrow.authorisation(account, operator, address(token));
        return abi.encode(allowance, expiry);
    }

    /// @dev The last second in which a stranger cannot end it.
    function _expiry(IEscrowTypes.Terms memory terms, IEscrowTypes.Agreement memory a)
        internal
        pure
        returns (uint256)
    {
        if (a.status != IEscrowTypes.Status.Open) return a.deadline;
        return
            uint256(a.openedAt) + terms.timing.duration + a.extraDuration + terms.timing.claimWindow;
    }

    function _end(IEscrowTypes.Terms memory terms, bytes32 id) internal returns (bool done) {
        bool challenged = escrow.agreement(id).status == IEscrowTypes.Status.Challenged;
        (done,) = address(escrow)
            .call(
                challenged
                    ? abi.encodeCall(escrow.slash, (terms))
                    : abi.encodeCall(escrow.finalize, (terms))
            );
    }

    /// @dev Whatever happened, a stranger can end every agreement in the first second after its
    /// expiry, not before, with both parties silent; and then nothing is locked.
    function afterInvariant() public {
        uint256 now_ = block.timestamp;
        for (uint256 i; i < handler.count(); ++i) {
            bytes32 id = handler.ids(i);
            if (!_live(id)) continue;
            IEscrowTypes.Terms memory terms = handler.termsAt(i);
            IEscrowTypes.Agreement memory a = escrow.agreement(id);
            uint256 expiry = _expiry(terms, a);
            uint256 most = uint256(terms.timing.duration) + a.extraDuration
                + terms.timing.claimWindow + 2 * terms.timing.window + terms.timing.arbiterWindow;
            assertLe(expiry, (now_ > a.openedAt ? now_ : a.openedAt) + most, "bounded");
            if (expiry >= now_) {
                vm.warp(expiry);
                assertFalse(_end(terms, id), "not before its expiry");
                vm.warp(expiry + 1);
            }
            assertTrue(_end(terms, id), "by a stranger, after its expiry");
            assertFalse(_live(id));
            vm.warp(now_);
        }
        assertEq(escrow.unitsTaken(handler.accounts(2)), 0);
        assertEq(escrow.unitsTaken(handler.accounts(3)), 0);
        (, uint256 locked) = _held();
        assertEq(locked, 0, "nothing is locked");
        always_Conservation();
    }

    /// @dev The handler reaches what it should; a handler that only reverts proves nothing.
    function test_handler_ReachesEveryStep() public {
        uint256 seed = 0;
        for (uint256 i; i < 3000; ++i) {
            seed = uint256(keccak256(abi.encode(seed, i)));
            uint256 what = seed % 17;
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
            if (what == 10 || what == 16) handler.close(s);
            if (what == 11) handler.authorise(s);
            if (what == 12) handler.openMany(s, s * 7919, uint64(s >> 64));
            if (what == 13) handler.settleMany(s, uint64(s >> 32));
            if (what == 14) handler.closeSigned(s, uint64(s >> 32));
            if (what == 15) handler.cancel(s);
        }
        string[22] memory names = [
            "deposit",
            "withdraw",
            "restake",
            "authorise",
            "open",
            "open by operator",
            "openMany",
            "cancel",
            "claim",
            "settle",
            "settleMany",
            "claimOffline",
            "extend",
            "challenge",
            "answer",
            "equivocate",
            "closeSigned",
            "close",
            "finalize",
            "slash",
            "dispute",
            "rule"
        ];
        for (uint256 i; i < names.length; ++i) {
            assertGt(handler.calls(names[i]), 0, names[i]);
        }
        assertGt(handler.REPLAY().skipped(), 0, "skipped");
        invariant_Always();
        afterInvariant();
    }
}
