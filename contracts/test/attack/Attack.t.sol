// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";
import {CallbackToken, FeeToken, NativeThief} from "../Mocks.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @notice One test per line of the table in docs/SECURITY.md.
contract AttackTest is Base {
    // ------------------------------------------------------------------------------------ tokens

    function test_attack_FeeTokenIsRefused() public {
        FeeToken fee = new FeeToken();
        fee.mint(anyone, 100);
        vm.startPrank(anyone);
        fee.approve(address(escrow), 100);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_WrongAmountReceived.selector, address(fee), 99, 100
            )
        );
        escrow.deposit(address(fee), 100);
    }

    function test_attack_TokenReentersDeposit() public {
        CallbackToken bad = new CallbackToken();
        bad.mint(anyone, 100);
        vm.startPrank(anyone);
        bad.approve(address(escrow), 100);
        bad.arm(address(escrow), abi.encodeCall(escrow.deposit, (address(bad), 0)));
        escrow.deposit(address(bad), 50);
        assertFalse(bad.succeeded(), "deposit is guarded");
        bad.arm(address(escrow), abi.encodeCall(escrow.withdraw, (address(bad), 1)));
        escrow.withdraw(address(bad), 10);
        assertFalse(bad.succeeded(), "withdraw is guarded");
        (uint256 left,,,) = escrow.balance(address(bad), anyone);
        assertEq(left, 40);
    }

    function test_attack_NativeReentersWithdraw() public {
        NativeThief thief = new NativeThief{value: 2 ether}(escrow);
        thief.put(2 ether);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NativeTransferFailed.selector, address(thief), 1 ether
            )
        );
        thief.take(1 ether, true, false);
    }

    function test_attack_MsgValueIsNotCountedTwiceInMulticall() public {
        vm.deal(anyone, 1 ether);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(escrow.depositNative, ());
        calls[1] = calls[0];
        vm.startPrank(anyone);
        (bool done,) =
            address(escrow).call{value: 1 ether}(abi.encodeCall(escrow.multicall, (calls)));
        assertFalse(done, "multicall takes no value");
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAmount.selector);
        escrow.multicall(calls);
    }

    // ------------------------------------------------------------------------------------ replay

    function test_attack_ReplayOnAnotherContract() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        Escrow other = new Escrow(limits());
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        other.open(terms, a, b);
    }

    function test_attack_ReplayOnAnotherChain() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.chainId(block.chainid + 1);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.open(terms, a, b);
    }

    function test_attack_ReplayOfTermsAfterTheClose() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        settle(terms, 0, true);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Closed));
        escrow.open(terms, a, b);
    }

    function test_attack_VoucherOfAnotherAgreement() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        IEscrowTypes.Terms memory other = makeTerms();
        other.units = 4;
        bytes32 otherId = open(other);
        vm.warp(START + 100);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) =
            voucherOf(otherId, 1e5, true);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_WrongAgreement.selector, id, otherId)
        );
        escrow.claim(terms, voucher, signature);
        voucher.agreement = id;
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.claim(terms, voucher, signature);
    }

    function test_attack_ChangedTermsAreAnotherAgreement() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        terms.money.slashBps = 0;
        bytes32 id = escrow.agreementId(terms);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.None));
        escrow.finalize(terms);
    }

    // -------------------------------------------------------------------------------- signatures

    function test_attack_MalleableSignature() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 100);
        (IEscrowTypes.Voucher memory voucher,) = voucherOf(id, 1e5, false);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(requesterHotKey, escrow.voucherDigest(voucher));
        uint256 n = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes memory twin = abi.encodePacked(r, bytes32(n - uint256(s)), v == 27 ? 28 : 27);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.claim(terms, voucher, twin);
        bytes memory short = abi.encodePacked(r, s);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.claim(terms, voucher, short);
        bytes memory zero = new bytes(65);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.claim(terms, voucher, zero);
    }

    /// @dev Padding bits above a field change the digest we hash but not the value we read.
    function test_attack_DirtyPaddingIsNotSigned() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 100);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 1e5, false);
        bytes memory data = abi.encodeCall(escrow.claim, (terms, voucher, signature));
        data[4 + 24 * 32] = 0x01; // the highest byte of the voucher's uint96 amount
        (bool done,) = address(escrow).call(data);
        assertFalse(done);
        data[4 + 24 * 32] = 0x00;
        (done,) = address(escrow).call(data);
        assertTrue(done);
    }

    // ------------------------------------------------------------------------------ front-running

    function test_attack_OpenFrontRunByARelayerDoesWhatWasSigned() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened(); // sent by anyone, not by a party
        assertStatus(id, IEscrowTypes.Status.Open);
        assertEq(terms.parties.requester, requester);
        assertEq(free(anyone), 0);
    }

    function test_attack_ClaimAheadOfSettleDoesNotStopIt() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 2e6, true);
        vm.prank(anyone);
        escrow.claim(terms, voucher, signature);
        vm.prank(provider);
        escrow.settle(terms, voucher, signature);
        assertMoved(2e6, 0, 0, 0);
    }

    function test_attack_StaleLastVoucherInOthersHands() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 1, true);
        vm.prank(requester);
        vm.expectRevert(notParty(requester));
        escrow.settle(terms, voucher, signature);
    }

    function test_attack_CloseAheadOfChallengeDoesNotDodgeIt() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        vm.prank(provider);
        escrow.providerClose(terms);
        challenge(terms, 1);
        vm.warp(START + 1001 + WINDOW);
        escrow.slash(terms);
        assertStatus(id, IEscrowTypes.Status.Slashed);
    }

    /// @dev Answer, close at once, and sit out the cooldown: the close waits until it is over.
    function test_attack_CloseInTheCooldownDoesNotDodge() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        challenge(terms, 1);
        answer(terms, 1, 1);
        vm.prank(provider);
        escrow.providerClose(terms);
        assertEq(escrow.agreement(id).deadline, START + 1000 + 2 * WINDOW);
        vm.warp(START + 1000 + WINDOW);
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), BOND, type(uint40).max);
        challenge(terms, 2);
        assertStatus(id, IEscrowTypes.Status.Challenged);
    }

    function test_attack_VoucherAheadOfChallengeDoesNotStopIt() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        claim(terms, 2e6);
        challenge(terms, 1);
        assertStatus(id, IEscrowTypes.Status.Challenged);
    }

    // ---------------------------------------------------------------------------------- liveness

    function test_attack_PreSignedAnswerIsRefused() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        // Signed before the challenge, for every small number somebody might guess.
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 0, 1);
        challenge(terms, 0xBEEFBEEF1234);
        vm.expectRevert(abi.encodeWithSelector(IEscrowEvents.Escrow_BadNonce.selector, 1));
        escrow.answer(terms, beat, signature);
    }

    function test_attack_OldAnswerIsRefused() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        challenge(terms, 7);
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 0, 7);
        escrow.answer(terms, beat, signature);
        vm.warp(START + 1000 + WINDOW);
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), BOND, type(uint40).max);
        challenge(terms, 8);
        vm.expectRevert(abi.encodeWithSelector(IEscrowEvents.Escrow_BadNonce.selector, 7));
        escrow.answer(terms, beat, signature);
    }

    function test_attack_InArrearsCannotChallenge() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 0, false);
        vm.prank(requester);
        vm.expectPartialRevert(IEscrowEvents.Escrow_NotPaidUp.selector);
        escrow.challenge(terms, voucher, signature, 1);
    }

    // -------------------------------------------------------------------------------- stolen keys

    function test_attack_StolenHotKeysWithdrawNothing() public {
        opened();
        vm.startPrank(requesterHot);
        vm.expectPartialRevert(IEscrowEvents.Escrow_InsufficientFree.selector);
        escrow.withdraw(address(token), 1);
    }

    function test_attack_StolenRequesterKeyPaysNoMoreThanTimeHasPassed() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        vm.warp(START + 10);
        settle(terms, DEPOSIT, true);
        assertMoved(10 * PER_SECOND, 0, 0, 0);
    }

    function test_attack_OperatorMovesTheSameMoneyOnlyOnce() public {
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), 11e6, type(uint40).max);
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        escrow.open(terms, sign(requesterHotKey, id), sign(providerKey, id));
        settle(terms, 0, true); // all of it came back
        terms.salt = bytes32(uint256(1));
        id = escrow.agreementId(terms);
        bytes memory a = sign(requesterHotKey, id);
        bytes memory b = sign(providerKey, id);
        vm.expectPartialRevert(IEscrowEvents.Escrow_NotAuthorised.selector);
        escrow.open(terms, a, b);
    }

    function test_attack_OperatorOfAnotherTokenOrRole() public {
        vm.prank(requester);
        escrow.authorise(providerHot, address(token), 11e6, type(uint40).max);
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(providerHotKey, id); // an operator, but not the signer of the terms
        bytes memory b = sign(providerKey, id);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.open(terms, a, b);
    }

    function test_attack_DoubleSaleOfAUnit() public {
        opened();
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.salt = bytes32(uint256(1));
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_UnitsTaken.selector, provider, UNITS)
        );
        escrow.open(terms, a, b);
    }

    function test_attack_UnstakingDoesNotFreeLockedCollateral() public {
        opened();
        vm.startPrank(provider);
        vm.expectPartialRevert(IEscrowEvents.Escrow_InsufficientStake.selector);
        escrow.unstake(address(token), 60e6);
        escrow.unstake(address(token), 40e6);
    }
}
