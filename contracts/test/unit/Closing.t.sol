// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";

contract ClosingTest is Base {
    function test_requesterClose_GivesTheProviderTheClaimWindow() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.prank(provider);
        vm.expectRevert(notParty(provider));
        escrow.requesterClose(terms);
        vm.warp(START + 1000);
        vm.prank(requesterHot);
        escrow.requesterClose(terms);
        assertEq(escrow.agreement(id).deadline, START + 1000 + CLAIM_WINDOW);
        vm.warp(START + 1000 + CLAIM_WINDOW);
        vm.expectRevert(tooEarly(START + 1000 + CLAIM_WINDOW + 1));
        escrow.finalize(terms);
        claim(terms, 2e6);
        vm.warp(START + 1001 + CLAIM_WINDOW);
        escrow.finalize(terms);
        assertMoved(2e6, 0, 0, 0);
        vm.prank(requester);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Closed));
        escrow.requesterClose(terms);
    }

    function test_requesterClose_ProviderEndsItAtOnce() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        vm.prank(requester);
        escrow.requesterClose(terms);
        vm.prank(requester);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.ClosingByRequester));
        escrow.requesterClose(terms);
        settle(terms, 2e6, false);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertMoved(2e6, 0, 0, 0);
    }

    function test_providerClose_WaitsOneWindow() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.prank(requester);
        vm.expectRevert(notParty(requester));
        escrow.providerClose(terms);
        vm.warp(START + 1000);
        vm.startPrank(provider);
        escrow.providerClose(terms);
        vm.expectRevert(tooEarly(START + 1000 + WINDOW + 1));
        escrow.providerClose(terms);
        vm.warp(START + 1001 + WINDOW);
        escrow.providerClose(terms);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertMoved(0, 0, 0, 0);
    }

    function test_providerClose_AtTheEndIsImmediate() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + DURATION);
        vm.prank(provider);
        escrow.providerClose(terms);
        assertStatus(id, IEscrowTypes.Status.Closed);
    }

    function test_providerClose_AtTheEndWithArbiterWaits() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.arbiter = arbiter;
        bytes32 id = open(terms);
        vm.warp(START + DURATION);
        vm.prank(provider);
        escrow.providerClose(terms);
        assertStatus(id, IEscrowTypes.Status.ClosingByProvider);
    }

    function test_finalize_AfterTheEnd() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        vm.warp(START + DURATION + CLAIM_WINDOW);
        vm.expectRevert(tooEarly(START + DURATION + CLAIM_WINDOW + 1));
        escrow.finalize(terms);
        vm.warp(START + DURATION + CLAIM_WINDOW + 1);
        escrow.finalize(terms);
        assertMoved(0, 0, 0, 0);
    }

    // ---------------------------------------------------------------------------- proof of silence

    function test_challenge_Answered() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        challenge(terms, 77);
        assertStatus(id, IEscrowTypes.Status.Challenged);
        assertEq(free(provider), 42e6, "paid up");
        vm.prank(provider);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Challenged));
        escrow.providerClose(terms);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Challenged));
        escrow.finalize(terms);
        vm.warp(START + 1000 + WINDOW);
        vm.expectRevert(tooEarly(START + 1001 + WINDOW));
        escrow.slash(terms);
        vm.expectEmit();
        emit IEscrowEvents.Answered(id, 5, START + 1000 + 2 * WINDOW);
        answer(terms, 5, 77);
        assertStatus(id, IEscrowTypes.Status.Open);
        settle(terms, 2e6, true);
        assertMoved(2e6, 0, 0, BOND);
    }

    function test_challenge_UnansweredIsSlashed() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        challenge(terms, 77);
        vm.warp(START + 1001 + WINDOW);
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 0, 77);
        vm.expectRevert(tooLate(START + 1000 + WINDOW));
        escrow.answer(terms, beat, signature);
        vm.expectEmit();
        emit IEscrowEvents.Slashed(id, 10e6, 6e6, 4e6);
        vm.prank(anyone);
        escrow.slash(terms);
        assertStatus(id, IEscrowTypes.Status.Slashed);
        assertMoved(2e6, 6e6, 4e6, 0);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Slashed));
        escrow.slash(terms);
    }

    function test_challenge_NobodyIsBurnedIfAllGoesToTheVictim() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.money.victimShareBps = 10_000;
        open(terms);
        vm.warp(START + GRACE);
        challenge(terms, 1);
        vm.warp(START + GRACE + WINDOW + 1);
        escrow.slash(terms);
        assertMoved(GRACE * PER_SECOND, 10e6, 0, 0);
    }

    function test_challenge_Guards() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 1e6, false);
        vm.prank(provider);
        vm.expectRevert(notParty(provider));
        escrow.challenge(terms, voucher, signature, 1);
        vm.startPrank(requester);
        vm.expectRevert(tooEarly(START + GRACE));
        escrow.challenge(terms, voucher, signature, 1);
        vm.warp(START + GRACE + 501);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_NotPaidUp.selector, 1e6, 501 * PER_SECOND)
        );
        escrow.challenge(terms, voucher, signature, 1);
        vm.warp(START + GRACE + 500);
        vm.expectRevert(abi.encodeWithSelector(IEscrowEvents.Escrow_BadNonce.selector, 0));
        escrow.challenge(terms, voucher, signature, 0);
        vm.warp(START + DURATION);
        vm.expectRevert(tooLate(START + DURATION - 1));
        escrow.challenge(terms, voucher, signature, 1);
        escrow.requesterClose(terms);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.ClosingByRequester));
        escrow.challenge(terms, voucher, signature, 1);
    }

    function test_challenge_CooldownNonceAndFreshBond() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        challenge(terms, 77);
        answer(terms, 1, 77);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 3e6, false);
        vm.startPrank(requesterHot);
        vm.expectRevert(tooEarly(START + 1000 + WINDOW));
        escrow.challenge(terms, voucher, signature, 78);
        vm.warp(START + 1000 + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IEscrowEvents.Escrow_BadNonce.selector, 77));
        escrow.challenge(terms, voucher, signature, 77);
        // The hot key may not take a second bond out of the wallet without an allowance.
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NotAuthorised.selector, requester, requesterHot, 0, BOND
            )
        );
        escrow.challenge(terms, voucher, signature, 78);
        vm.stopPrank();
        uint256 before = free(requester);
        vm.prank(requester);
        vm.expectEmit();
        emit IEscrowEvents.Bonded(id, BOND);
        escrow.challenge(terms, voucher, signature, 78);
        assertEq(free(requester), before - BOND);
        answer(terms, 2, 78);
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), BOND, type(uint40).max);
        vm.warp(START + 1000 + 2 * WINDOW);
        challenge(terms, 79);
        vm.warp(START + 1001 + 3 * WINDOW);
        escrow.slash(terms);
        assertMoved(1600 * PER_SECOND, 6e6, 4e6, 2 * BOND);
    }

    function test_challenge_ReachesAProviderThatClosed() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.prank(provider);
        escrow.providerClose(terms); // inside the grace: the window starts at its end
        assertEq(escrow.agreement(id).deadline, START + GRACE + WINDOW);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 0, false);
        vm.startPrank(requester);
        vm.expectRevert(tooEarly(START + GRACE));
        escrow.challenge(terms, voucher, signature, 1);
        vm.warp(START + GRACE + WINDOW + 1);
        vm.expectRevert(tooLate(START + GRACE + WINDOW));
        escrow.challenge(terms, voucher, signature, 1);
        vm.stopPrank();
        vm.warp(START + GRACE + WINDOW);
        challenge(terms, 1);
        vm.warp(START + GRACE + 2 * WINDOW + 1);
        escrow.slash(terms);
        assertStatus(id, IEscrowTypes.Status.Slashed);
    }

    function test_challenge_UnpaidProviderMayStopFree() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        settle(terms, 1e6, false); // paid for 500 of 1,000 s
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 1e6, false);
        vm.prank(requester);
        vm.expectPartialRevert(IEscrowEvents.Escrow_NotPaidUp.selector);
        escrow.challenge(terms, voucher, signature, 1);
        vm.warp(START + 1001 + WINDOW);
        escrow.finalize(terms);
        assertMoved(1e6, 0, 0, 0);
    }

    function test_answer_Guards() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 0, 77);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Open));
        escrow.answer(terms, beat, signature);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Open));
        escrow.slash(terms);
        challenge(terms, 78);
        vm.expectRevert(abi.encodeWithSelector(IEscrowEvents.Escrow_BadNonce.selector, 77));
        escrow.answer(terms, beat, signature);
        beat.challenge = 78;
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, providerHot)
        );
        escrow.answer(terms, beat, signature);
        beat.agreement = 0;
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_WrongAgreement.selector, id, bytes32(0))
        );
        escrow.answer(terms, beat, signature);
    }

    // ------------------------------------------------------------------------------- equivocation

    function test_slashEquivocation() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        (IEscrowTypes.Heartbeat memory a, bytes memory sigA) = heartbeatOf(id, 9, 10, 0);
        (IEscrowTypes.Heartbeat memory b, bytes memory sigB) = heartbeatOf(id, 9, 11, 0);
        (IEscrowTypes.Heartbeat memory c, bytes memory sigC) = heartbeatOf(id, 10, 11, 0);
        vm.expectRevert(IEscrowEvents.Escrow_NotEquivocation.selector);
        escrow.slashEquivocation(terms, a, sigA, a, sigA);
        vm.expectRevert(IEscrowEvents.Escrow_NotEquivocation.selector);
        escrow.slashEquivocation(terms, a, sigA, c, sigC);
        vm.prank(anyone);
        escrow.slashEquivocation(terms, a, sigA, b, sigB);
        assertStatus(id, IEscrowTypes.Status.Slashed);
        assertMoved(0, 9.6e6, 6.4e6, 0);
    }

    function test_slashEquivocation_OptIn() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.money.equivocationBps = 0;
        bytes32 id = open(terms);
        (IEscrowTypes.Heartbeat memory a, bytes memory sigA) = heartbeatOf(id, 9, 10, 0);
        (IEscrowTypes.Heartbeat memory b, bytes memory sigB) = heartbeatOf(id, 9, 11, 0);
        vm.expectRevert(IEscrowEvents.Escrow_NotEquivocation.selector);
        escrow.slashEquivocation(terms, a, sigA, b, sigB);
    }

    // -------------------------------------------------------------------------------- the arbiter

    function disputed() internal returns (IEscrowTypes.Terms memory terms, bytes32 id) {
        terms = makeTerms();
        terms.parties.arbiter = arbiter;
        id = open(terms);
        vm.prank(requesterHot);
        vm.expectEmit();
        emit IEscrowEvents.Disputed(id, START + 1000);
        escrow.dispute(terms);
    }

    function test_dispute_Guards() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.expectRevert(notParty(address(this)));
        escrow.dispute(terms);
        vm.prank(requester);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadTerms.selector, bytes32("arbiter"))
        );
        escrow.dispute(terms);
        terms.parties.arbiter = arbiter;
        terms.units = 4;
        id = open(terms);
        vm.prank(arbiter);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Open));
        escrow.rule(terms, 1);
    }

    function test_rule_Slashes() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = disputed();
        vm.expectRevert(notParty(address(this)));
        escrow.rule(terms, 1);
        vm.startPrank(arbiter);
        vm.expectPartialRevert(IEscrowEvents.Escrow_AmountOutOfRange.selector);
        escrow.rule(terms, COLLATERAL + 1);
        vm.expectEmit();
        emit IEscrowEvents.Ruled(id, COLLATERAL);
        escrow.rule(terms, COLLATERAL);
        assertMoved(0, 12e6, 8e6, 0);
    }

    function test_rule_ForTheProviderGivesItTheBond() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = disputed();
        vm.prank(arbiter);
        escrow.rule(terms, 0);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertMoved(0, 0, 0, BOND);
    }

    function test_rule_SilenceSlashesNobody() public {
        (IEscrowTypes.Terms memory terms,) = disputed();
        vm.warp(START + 1001);
        vm.prank(arbiter);
        vm.expectRevert(tooLate(START + 1000));
        escrow.rule(terms, 1);
        escrow.finalize(terms);
        assertMoved(0, 0, 0, 0);
    }
}
