// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";

/// @notice The leaves of test/trees that no story passes by.
contract GuardsTest is Base {
    function withArbiter() internal returns (IEscrowTypes.Terms memory terms, bytes32 id) {
        terms = makeTerms();
        terms.parties.arbiter = arbiter;
        id = open(terms);
    }

    function test_claim_InEveryLiveStatus() public {
        for (uint256 i; i < 5; ++i) {
            uint256 start = START + 20_000 * i;
            vm.warp(start);
            IEscrowTypes.Terms memory terms = makeTerms();
            terms.timing.openBy = uint40(start);
            terms.parties.arbiter = arbiter;
            terms.salt = bytes32(i);
            bytes32 id = open(terms);
            vm.warp(start + 1000);
            if (i == 1) {
                vm.prank(requester);
                escrow.requesterClose(terms);
            } else if (i == 2) {
                vm.prank(provider);
                escrow.providerClose(terms);
            } else if (i == 3) {
                challenge(terms, 1);
            } else if (i == 4) {
                vm.prank(requester);
                escrow.dispute(terms);
            }
            assertEq(uint256(statusOf(id)), i + 1);
            vm.warp(start + 1100);
            claim(terms, 2.2e6);
            assertEq(escrow.agreement(id).paid, 2.2e6);
            settleSigned(terms, 2.2e6);
        }
    }

    function settleSigned(IEscrowTypes.Terms memory terms, uint96 paid) internal {
        IEscrowTypes.Settlement memory settlement =
            IEscrowTypes.Settlement(escrow.agreementId(terms), paid, 0);
        bytes32 digest = escrow.settlementDigest(settlement);
        escrow.closeSigned(terms, settlement, sign(requesterKey, digest), sign(providerKey, digest));
    }

    function test_claimOffline_Guards() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 9, 0);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.None));
        escrow.claimOffline(terms, beat, signature);
        open(terms);
        beat.meteredSeconds = 10;
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, providerHot)
        );
        escrow.claimOffline(terms, beat, signature);
        beat.agreement = 0;
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_WrongAgreement.selector, id, bytes32(0))
        );
        escrow.claimOffline(terms, beat, signature);
        (beat, signature) = heartbeatOf(id, 1, 9, 0);
        vm.expectRevert(abi.encodeWithSelector(IEscrowEvents.Escrow_NothingToClaim.selector, id, 0));
        escrow.claimOffline(terms, beat, signature); // no second has passed
    }

    function test_closeSigned_RevertsIfNotLive() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        IEscrowTypes.Settlement memory settlement = IEscrowTypes.Settlement(id, 0, 0);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.None));
        escrow.closeSigned(terms, settlement, NONE, NONE);
        open(terms);
        settleSigned(terms, 0);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Closed));
        escrow.closeSigned(terms, settlement, NONE, NONE);
    }

    function test_closeSigned_OneSignatureIsNotTwo() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        IEscrowTypes.Settlement memory settlement = IEscrowTypes.Settlement(id, 0, 0);
        bytes memory a = sign(requesterKey, escrow.settlementDigest(settlement));
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, provider)
        );
        escrow.closeSigned(terms, settlement, a, a);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, requester)
        );
        escrow.closeSigned(terms, settlement, NONE, NONE);
    }

    function test_extend_ByOperatorUsesItsAllowance() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        IEscrowTypes.Extension memory extension = IEscrowTypes.Extension(id, 5e6, 0);
        bytes memory a = sign(requesterHotKey, escrow.extensionDigest(extension));
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NotAuthorised.selector, requester, requesterHot, 0, 5e6
            )
        );
        escrow.extend(terms, extension, a, NONE);
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), 6e6, uint40(START));
        vm.expectEmit();
        emit IEscrowEvents.AllowanceUsed(requester, requesterHot, address(token), 5e6);
        escrow.extend(terms, extension, a, NONE);
        (uint128 left,) = escrow.authorisation(requester, requesterHot, address(token));
        assertEq(left, 1e6);
    }

    function test_extend_RevertsIfFreeIsShort() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        IEscrowTypes.Extension memory extension = IEscrowTypes.Extension(id, 100e6, 0);
        vm.prank(requester);
        vm.expectPartialRevert(IEscrowEvents.Escrow_InsufficientFree.selector);
        escrow.extend(terms, extension, NONE, NONE);
    }

    function test_providerClose_RevertsWhileDisputed() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = withArbiter();
        vm.prank(requester);
        escrow.dispute(terms);
        vm.prank(provider);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Disputed));
        escrow.providerClose(terms);
    }

    function test_settle_LastEndsAChallenge() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        challenge(terms, 1);
        settle(terms, 2e6, true); // the requester signed that it is over
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertMoved(2e6, 0, 0, 0);
    }

    function test_slashEquivocation_Guards() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        (IEscrowTypes.Heartbeat memory a, bytes memory sigA) = heartbeatOf(id, 9, 10, 0);
        (IEscrowTypes.Heartbeat memory b, bytes memory sigB) = heartbeatOf(id, 9, 11, 0);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.None));
        escrow.slashEquivocation(terms, a, sigA, b, sigB);
        open(terms);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.slashEquivocation(terms, a, sigB, b, sigB);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.slashEquivocation(terms, a, sigA, b, sigA);
        b.agreement = 0;
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_WrongAgreement.selector, id, bytes32(0))
        );
        escrow.slashEquivocation(terms, a, sigA, b, sigB);
    }

    function test_dispute_OnlyWhileTheProviderCanBeContested() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = withArbiter();
        vm.warp(START + 1000);
        vm.prank(provider);
        escrow.providerClose(terms);
        vm.warp(START + 1001 + WINDOW);
        vm.startPrank(requester);
        vm.expectRevert(tooLate(START + 1000 + WINDOW));
        escrow.dispute(terms);
        vm.warp(START + 1000 + WINDOW);
        escrow.dispute(terms);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Disputed));
        escrow.dispute(terms);
    }

    function test_multicall_IsAllOrNothing() public {
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(escrow.stake, (address(token), 5));
        calls[1] = abi.encodeCall(escrow.withdraw, (address(token), 1000e6));
        vm.prank(requester);
        vm.expectPartialRevert(IEscrowEvents.Escrow_InsufficientFree.selector);
        escrow.multicall(calls);
        assertEq(staked(requester), 0);
    }
}
