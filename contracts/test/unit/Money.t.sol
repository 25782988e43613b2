// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";

contract MoneyTest is Base {
    function test_claim_PaysCumulatively() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        vm.expectEmit();
        emit IEscrowEvents.Claimed(id, 1e6, 0);
        claim(terms, 1e6);
        claim(terms, 1.5e6);
        assertEq(free(provider), 41.5e6);
        assertEq(escrow.agreement(id).paid, 1.5e6);
    }

    function test_claim_NeverAboveAccruedNorDeposit() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 10);
        claim(terms, DEPOSIT);
        assertEq(escrow.agreement(id).paid, 10 * PER_SECOND);
        vm.warp(START + DURATION + 500);
        claim(terms, type(uint96).max);
        assertEq(escrow.agreement(id).paid, DEPOSIT);
    }

    function test_claim_RevertsOnStaleVoucher() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        claim(terms, 1e6);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 1e6, false);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_NothingToClaim.selector, id, 1e6)
        );
        escrow.claim(terms, voucher, signature);
    }

    function test_claim_RevertsOnWrongSigner() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        (IEscrowTypes.Voucher memory voucher,) = voucherOf(id, 1e6, false);
        bytes memory bad = sign(providerHotKey, escrow.voucherDigest(voucher));
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, requesterHot)
        );
        escrow.claim(terms, voucher, bad);
    }

    function test_claim_RevertsBeforeOpenAndAfterClose() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 1, false);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.None));
        escrow.claim(terms, voucher, signature);
        open(terms);
        settle(terms, 0, true);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Closed));
        escrow.claim(terms, voucher, signature);
    }

    function test_claim_TheWalletMayVouch() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 10);
        (IEscrowTypes.Voucher memory voucher,) = voucherOf(id, 10, false);
        vm.prank(requester);
        escrow.claim(terms, voucher, NONE);
        assertEq(escrow.agreement(id).paid, 10);
    }

    function test_claimOffline_UpToTheAllowanceBeyondTheVoucher() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 2000);
        claim(terms, 2e6); // 1,000 s
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 1300, 0);
        vm.expectEmit();
        emit IEscrowEvents.Claimed(id, 2.6e6, 0.6e6);
        escrow.claimOffline(terms, beat, signature);
        (beat, signature) = heartbeatOf(id, 2, 2000, 0);
        escrow.claimOffline(terms, beat, signature);
        assertEq(escrow.agreement(id).paid, 3.2e6, "1,000 + 600 s");
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_NothingToClaim.selector, id, 3.2e6)
        );
        escrow.claimOffline(terms, beat, signature);

        // A voucher between the two pays nothing, but moves the allowance up.
        claim(terms, 3e6);
        assertEq(escrow.agreement(id).paid, 3.2e6);
        assertEq(escrow.agreement(id).offline, 0.2e6);
        escrow.claimOffline(terms, beat, signature);
        assertEq(escrow.agreement(id).paid, 4e6, "all 2,000 s");
        claim(terms, 4e6);
        assertEq(escrow.agreement(id).offline, 0);
        settle(terms, 4e6, true);
        assertMoved(4e6, 0, 0, 0);
    }

    function test_claimOffline_NotMoreThanTheHeartbeatCouldMeter() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 100);
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 9999, 0);
        vm.warp(START + 1000);
        escrow.claimOffline(terms, beat, signature);
        assertEq(escrow.agreement(id).paid, 100 * PER_SECOND);
    }

    function test_claimOffline_RefusesTheFutureAndAfterTheClose() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 100);
        vm.prank(requester);
        escrow.requesterClose(terms);
        vm.warp(START + 200);
        (IEscrowTypes.Heartbeat memory late, bytes memory signature) = heartbeatOf(id, 1, 200, 0);
        vm.expectRevert(tooLate(START + 100));
        escrow.claimOffline(terms, late, signature);
        late.at = uint40(START + 100);
        signature = sign(providerHotKey, escrow.heartbeatDigest(late));
        escrow.claimOffline(terms, late, signature);
        assertEq(escrow.agreement(id).paid, 100 * PER_SECOND);

        IEscrowTypes.Terms memory other = makeTerms();
        other.units = 4;
        id = open(other);
        (late,) = heartbeatOf(id, 1, 1, 0);
        late.at += 1;
        signature = sign(providerHotKey, escrow.heartbeatDigest(late));
        vm.expectRevert(tooLate(block.timestamp));
        escrow.claimOffline(other, late, signature);
    }

    function test_settle_LastClosesAtOnce() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        vm.expectEmit();
        emit IEscrowEvents.Closed(id, 2e6, DEPOSIT - 2e6);
        settle(terms, 2e6, true);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertMoved(2e6, 0, 0, 0);
    }

    function test_settle_NotLastIsProviderClose() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        vm.expectEmit();
        emit IEscrowEvents.Closing(id, provider, START + 1000 + WINDOW);
        settle(terms, 2e6, false);
        assertStatus(id, IEscrowTypes.Status.ClosingByProvider);
        assertEq(free(provider), 42e6);
    }

    function test_settle_OnlyProvider() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 0, true);
        vm.prank(requesterHot);
        vm.expectRevert(notParty(requesterHot));
        escrow.settle(terms, voucher, signature);
    }

    function test_settle_LastDoesNotEndADispute() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.arbiter = arbiter;
        bytes32 id = open(terms);
        vm.prank(requester);
        escrow.dispute(terms);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 0, true);
        vm.prank(provider);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Disputed));
        escrow.settle(terms, voucher, signature);
    }

    function test_settleMany_SkipsWhatFails() public {
        IEscrowTypes.Terms[] memory terms = new IEscrowTypes.Terms[](3);
        IEscrowTypes.Voucher[] memory vouchers = new IEscrowTypes.Voucher[](3);
        bytes[] memory signatures = new bytes[](3);
        bytes32[] memory ids = new bytes32[](3);
        for (uint256 i; i < 3; ++i) {
            terms[i] = makeTerms();
            terms[i].units = 1 << i;
            terms[i].money.collateral = 10e6;
            ids[i] = open(terms[i]);
        }
        vm.warp(START + 100);
        for (uint256 i; i < 3; ++i) {
            (vouchers[i], signatures[i]) = voucherOf(ids[i], 1e5, true);
        }
        settleOne(terms[1], vouchers[1], signatures[1]);
        vm.startPrank(provider);
        vm.expectRevert(IEscrowEvents.Escrow_LengthMismatch.selector);
        escrow.settleMany(terms, vouchers, new bytes[](1));
        vm.expectRevert(IEscrowEvents.Escrow_LengthMismatch.selector);
        escrow.settleMany(terms, new IEscrowTypes.Voucher[](1), signatures);
        vm.expectEmit();
        emit IEscrowEvents.SettleSkipped(ids[1], wrongStatus(ids[1], IEscrowTypes.Status.Closed));
        escrow.settleMany(terms, vouchers, signatures);
        assertMoved(3e5, 0, 0, 0);
    }

    function settleOne(
        IEscrowTypes.Terms memory terms,
        IEscrowTypes.Voucher memory voucher,
        bytes memory signature
    ) internal {
        vm.prank(provider);
        escrow.settle(terms, voucher, signature);
    }

    // ------------------------------------------------------------------------------- closeSigned

    function closeSigned(
        IEscrowTypes.Terms memory terms,
        uint96 paid,
        uint96 slashed,
        uint256 keyR,
        uint256 keyP
    ) internal {
        IEscrowTypes.Settlement memory settlement =
            IEscrowTypes.Settlement(escrow.agreementId(terms), paid, slashed);
        bytes32 digest = escrow.settlementDigest(settlement);
        escrow.closeSigned(terms, settlement, sign(keyR, digest), sign(keyP, digest));
    }

    function test_closeSigned_ByHotKeys() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        closeSigned(terms, 2e6, 0, requesterHotKey, providerHotKey);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertMoved(2e6, 0, 0, 0);
    }

    function test_closeSigned_HotKeyGivesNoMoreThanAccrued() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        vm.warp(START + 1000);
        vm.expectPartialRevert(IEscrowEvents.Escrow_AmountOutOfRange.selector);
        this.closeSignedExternal(terms, 2e6 + 1, 0, requesterHotKey, providerKey);
        closeSigned(terms, 3e6, 0, requesterKey, providerHotKey);
        assertMoved(3e6, 0, 0, 0);
    }

    function closeSignedExternal(
        IEscrowTypes.Terms memory terms,
        uint96 paid,
        uint96 slashed,
        uint256 keyR,
        uint256 keyP
    ) external {
        closeSigned(terms, paid, slashed, keyR, keyP);
    }

    function test_closeSigned_SlashedNeedsBothWallets() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        this.closeSignedExternal(terms, 0, 1e6, requesterHotKey, providerKey);
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        this.closeSignedExternal(terms, 0, 1e6, requesterKey, providerHotKey);
        vm.expectPartialRevert(IEscrowEvents.Escrow_AmountOutOfRange.selector);
        this.closeSignedExternal(terms, 0, COLLATERAL + 1, requesterKey, providerKey);
        closeSigned(terms, 0, 1e6, requesterKey, providerKey);
        assertStatus(id, IEscrowTypes.Status.Slashed);
        assertMoved(0, 0.6e6, 0.4e6, 0);
    }

    function test_closeSigned_NotBelowWhatIsPaid() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        claim(terms, 2e6);
        vm.expectPartialRevert(IEscrowEvents.Escrow_AmountOutOfRange.selector);
        this.closeSignedExternal(terms, 2e6 - 1, 0, requesterKey, providerKey);
        vm.expectPartialRevert(IEscrowEvents.Escrow_AmountOutOfRange.selector);
        this.closeSignedExternal(terms, DEPOSIT + 1, 0, requesterKey, providerKey);
        IEscrowTypes.Settlement memory other = IEscrowTypes.Settlement(bytes32(0), 2e6, 0);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_WrongAgreement.selector, id, bytes32(0))
        );
        escrow.closeSigned(terms, other, NONE, NONE);
        closeSigned(terms, 2e6, 0, requesterHotKey, providerKey);
        assertMoved(2e6, 0, 0, 0);
    }
}
