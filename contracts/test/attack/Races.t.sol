// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";

/// @notice Somebody sends something else first.
contract RacesTest is Base {
    function signed(IEscrowTypes.Terms memory terms, uint256 keyR, uint256 keyP)
        internal
        view
        returns (bytes memory, bytes memory)
    {
        bytes32 id = escrow.agreementId(terms);
        return (sign(keyR, id), sign(keyP, id));
    }

    function test_race_OpenIsSentTwice() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        (bytes memory a, bytes memory b) = signed(terms, requesterKey, providerKey);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Open));
        escrow.open(terms, a, b);
        assertEq(free(requester), 100e6 - DEPOSIT - BOND, "locked once");
    }

    function test_race_OperatorIsRevokedBetweenQuoteAndOpen() public {
        vm.startPrank(requester);
        escrow.authorise(requesterHot, address(token), 50e6, type(uint40).max);
        IEscrowTypes.Terms memory terms = makeTerms();
        (bytes memory a, bytes memory b) = signed(terms, requesterHotKey, providerKey);
        escrow.revoke(requesterHot, address(token));
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NotAuthorised.selector, requester, requesterHot, 0, 11e6
            )
        );
        escrow.open(terms, a, b);
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), 50e6, uint40(START));
        vm.warp(START + 1);
        vm.expectPartialRevert(IEscrowEvents.Escrow_NotAuthorised.selector);
        escrow.open(terms, a, b);
    }

    /// @dev A revoke stops what is not open yet; vouchers of what is open stay good, or a requester
    /// could take back a promise.
    function test_race_RevokeDoesNotUnsignVouchers() public {
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), 50e6, type(uint40).max);
        IEscrowTypes.Terms memory terms = makeTerms();
        (bytes memory a, bytes memory b) = signed(terms, requesterHotKey, providerKey);
        escrow.open(terms, a, b);
        vm.warp(START + 1000);
        vm.prank(requester);
        escrow.revoke(requesterHot, address(token));
        settle(terms, 2e6, true);
        assertMoved(2e6, 0, 0, 0);
    }

    function test_race_OpenManyPartlyInvalidChangesNothing() public {
        IEscrowTypes.Terms[] memory terms = new IEscrowTypes.Terms[](3);
        bytes[] memory a = new bytes[](3);
        bytes[] memory b = new bytes[](3);
        for (uint256 i; i < 3; ++i) {
            terms[i] = makeTerms();
            terms[i].units = i == 2 ? 1 : 1 << i; // the third wants the first one's unit
            terms[i].money.collateral = 10e6;
            terms[i].salt = bytes32(i);
            (a[i], b[i]) = signed(terms[i], requesterKey, providerKey);
        }
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_UnitsTaken.selector, provider, 1)
        );
        escrow.openMany(terms, a, b);
        assertMoved(0, 0, 0, 0);
        for (uint256 i; i < 3; ++i) {
            assertStatus(escrow.agreementId(terms[i]), IEscrowTypes.Status.None);
        }
    }

    function test_race_RequesterClosesAheadOfSettle() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        vm.warp(START + 1000);
        vm.prank(requester);
        escrow.requesterClose(terms);
        settle(terms, 2e6, false);
        assertMoved(2e6, 0, 0, 0);
    }

    /// @dev A stranger may hand in a voucher for the provider, and end nothing with it.
    function test_race_StrangerClaimsTheLastVoucher() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 2e6, true);
        vm.startPrank(anyone);
        vm.expectRevert(notParty(anyone));
        escrow.settle(terms, voucher, signature);
        escrow.claim(terms, voucher, signature);
        vm.stopPrank();
        assertStatus(id, IEscrowTypes.Status.Open);
        assertEq(free(provider), 42e6);
    }

    /// @dev The provider settles ahead of a challenge only with a voucher that says `last`.
    function test_race_SettleAheadOfChallenge() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        settle(terms, 2e6, false);
        assertStatus(id, IEscrowTypes.Status.ClosingByProvider);
        challenge(terms, 5);
        assertStatus(id, IEscrowTypes.Status.Challenged);
    }

    /// @dev Copying a challenge out of the pool does nothing: only the requester may send it.
    function test_race_ChallengeSentByAStranger() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 2e6, false);
        vm.prank(anyone);
        vm.expectRevert(notParty(anyone));
        escrow.challenge(terms, voucher, signature, 5);
    }

    /// @dev Whoever slashes first, the money goes where the terms say and to no sender.
    function test_race_SlashIsFrontRun() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        vm.warp(START + 1000);
        challenge(terms, 5);
        vm.warp(START + 1001 + WINDOW);
        vm.prank(provider);
        escrow.slash(terms);
        assertMoved(2e6, 6e6, 4e6, 0);
    }

    /// @dev A requester that uses an old nonce again (not the last one, which is refused) accepts
    /// the old answer: it harms itself alone. The node draws each nonce at random.
    function test_race_NonceReusedLaterHelpsTheProviderOnly() public {
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), 50e6, type(uint40).max);
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        challenge(terms, 7);
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 0, 7);
        escrow.answer(terms, beat, signature);
        vm.warp(START + 1000 + WINDOW);
        (IEscrowTypes.Voucher memory voucher, bytes memory s) = voucherOf(id, 3e6, false);
        vm.prank(requesterHot);
        vm.expectRevert(abi.encodeWithSelector(IEscrowEvents.Escrow_BadNonce.selector, 7));
        escrow.challenge(terms, voucher, s, 7);
        challenge(terms, 8);
        answer(terms, 2, 8);
        vm.warp(START + 1000 + 2 * WINDOW);
        challenge(terms, 7);
        uint256 before = free(provider);
        escrow.answer(terms, beat, signature);
        assertEq(free(provider), before + BOND);
    }
}
