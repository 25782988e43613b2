// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";
import {Wallet} from "../Mocks.sol";

contract OpenTest is Base {
    function expectOpenRevert(IEscrowTypes.Terms memory terms, bytes memory reason) internal {
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.expectRevert(reason);
        escrow.open(terms, a, b);
    }

    function expectBadTerms(IEscrowTypes.Terms memory terms, bytes32 field) internal {
        expectOpenRevert(
            terms, abi.encodeWithSelector(IEscrowEvents.Escrow_BadTerms.selector, field)
        );
    }

    function test_open_LocksEverything() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.expectEmit();
        emit IEscrowEvents.Opened(
            id,
            requester,
            provider,
            address(token),
            DEPOSIT,
            COLLATERAL,
            BOND,
            UNITS,
            uint40(START),
            uint40(START + GRACE),
            START + DURATION
        );
        escrow.open(terms, a, b);
        IEscrowTypes.Agreement memory agreement = escrow.agreement(id);
        assertStatus(id, IEscrowTypes.Status.Open);
        assertEq(agreement.openedAt, START);
        assertEq(agreement.deadline, START + GRACE);
        assertTrue(agreement.bonded);
        assertEq(free(requester), 100e6 - DEPOSIT - BOND);
        assertEq(staked(provider), 60e6 - COLLATERAL);
        assertEq(escrow.unitsTaken(provider), UNITS);
    }

    function test_open_RevertsOnBadTerms() public {
        IEscrowTypes.Terms memory t = makeTerms();
        t.parties.requester = address(0);
        expectBadTerms(t, "parties");
        t = makeTerms();
        t.parties.provider = address(0);
        expectBadTerms(t, "parties");
        t = makeTerms();
        t.parties.requesterSigner = address(0);
        expectBadTerms(t, "parties");
        t = makeTerms();
        t.parties.providerSigner = address(0);
        expectBadTerms(t, "parties");
        t = makeTerms();
        t.parties.provider = requester;
        expectBadTerms(t, "parties");
        t = makeTerms();
        t.money.slashBps = 10_001;
        expectBadTerms(t, "bps");
        t = makeTerms();
        t.money.victimShareBps = 10_001;
        expectBadTerms(t, "bps");
        t = makeTerms();
        t.money.equivocationBps = 10_001;
        expectBadTerms(t, "bps");
        t = makeTerms();
        t.timing.duration = 0;
        expectBadTerms(t, "duration");
        t.timing.duration = 90 days + 1;
        expectBadTerms(t, "duration");
        t = makeTerms();
        t.timing.startGrace = 90 days + 1;
        expectBadTerms(t, "startGrace");
        t = makeTerms();
        t.timing.window = 59;
        expectBadTerms(t, "window");
        t.timing.window = 1 days + 1;
        expectBadTerms(t, "window");
        t = makeTerms();
        t.timing.claimWindow = 599;
        expectBadTerms(t, "claimWindow");
        t.timing.claimWindow = 30 days + 1;
        expectBadTerms(t, "claimWindow");
        t = makeTerms();
        t.parties.arbiter = arbiter;
        t.timing.arbiterWindow = 59;
        expectBadTerms(t, "arbiterWindow");
        t.timing.arbiterWindow = 30 days + 1;
        expectBadTerms(t, "arbiterWindow");
        t = makeTerms();
        t.units = 0;
        expectBadTerms(t, "units");
    }

    function test_open_RevertsAfterOpenBy() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        vm.warp(terms.timing.openBy + 1);
        expectOpenRevert(
            terms,
            abi.encodeWithSelector(IEscrowEvents.Escrow_OpenByPassed.selector, terms.timing.openBy)
        );
    }

    function test_open_RevertsIfOpenedOrCancelled() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        expectOpenRevert(terms, wrongStatus(id, IEscrowTypes.Status.Open));
        terms.salt = bytes32(uint256(1));
        id = escrow.agreementId(terms);
        vm.prank(anyone);
        vm.expectRevert(notParty(anyone));
        escrow.cancel(terms);
        vm.prank(providerHot);
        escrow.cancel(terms);
        expectOpenRevert(terms, wrongStatus(id, IEscrowTypes.Status.Cancelled));
        vm.prank(requester);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.Cancelled));
        escrow.cancel(terms);
    }

    function test_open_RevertsIfAUnitIsTaken() public {
        opened();
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.units = 6;
        expectOpenRevert(
            terms, abi.encodeWithSelector(IEscrowEvents.Escrow_UnitsTaken.selector, provider, 2)
        );
        terms.units = 4;
        open(terms);
        assertEq(escrow.unitsTaken(provider), 7);
    }

    function test_open_RevertsIfUnit255IsTaken() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.units = 1 << 255;
        open(terms);
        assertEq(escrow.unitsTaken(provider), 1 << 255);
        terms.salt = bytes32(uint256(1));
        expectOpenRevert(
            terms,
            abi.encodeWithSelector(IEscrowEvents.Escrow_UnitsTaken.selector, provider, 1 << 255)
        );
        terms.units = 1;
        open(terms);
        assertEq(escrow.unitsTaken(provider), (1 << 255) | 1);
        settle(terms, 0, true);
        assertEq(escrow.unitsTaken(provider), 1 << 255);
        terms.salt = 0;
        terms.units = 1 << 255;
        settle(terms, 0, true);
        assertEq(escrow.unitsTaken(provider), 0);
        terms.salt = bytes32(uint256(2));
        open(terms);
    }

    function test_open_RevertsIfFreeIsShort() public {
        vm.prank(requester);
        escrow.withdraw(address(token), 100e6 - DEPOSIT);
        expectOpenRevert(
            makeTerms(),
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_InsufficientFree.selector,
                address(token),
                requester,
                DEPOSIT,
                DEPOSIT + BOND
            )
        );
    }

    function test_open_EmptySignatureMeansTheSender() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes memory b = sign(providerKey, escrow.agreementId(terms));
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, requester)
        );
        escrow.open(terms, NONE, b);
        vm.prank(requester);
        escrow.open(terms, NONE, b);
    }

    function test_open_ByOperatorsUsesTheirAllowance() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(requesterHotKey, id);
        bytes memory b = sign(providerHotKey, id);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NotAuthorised.selector, requester, requesterHot, 0, 11e6
            )
        );
        escrow.open(terms, a, b);

        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), 11e6 - 1, uint40(START));
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NotAuthorised.selector, requester, requesterHot, 11e6 - 1, 11e6
            )
        );
        escrow.open(terms, a, b);

        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), 12e6, uint40(START));
        vm.prank(provider);
        escrow.authorise(providerHot, address(token), type(uint128).max, type(uint40).max);
        vm.warp(START + 1);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NotAuthorised.selector, requester, requesterHot, 0, 11e6
            )
        );
        escrow.open(terms, a, b);
        vm.warp(START);
        vm.expectEmit();
        emit IEscrowEvents.AllowanceUsed(requester, requesterHot, address(token), 11e6);
        escrow.open(terms, a, b);
        (uint128 left,) = escrow.authorisation(requester, requesterHot, address(token));
        assertEq(left, 1e6);
        (left,) = escrow.authorisation(provider, providerHot, address(token));
        assertEq(left, type(uint128).max);

        settle(terms, 0, true);
        (left,) = escrow.authorisation(requester, requesterHot, address(token));
        assertEq(left, 1e6, "a refund restores no allowance");
    }

    function test_open_AnUnauthorisedSignerMayNotEvenLockNothing() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.money.collateral = 0;
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerHotKey, id);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NotAuthorised.selector, provider, providerHot, 0, 0
            )
        );
        escrow.open(terms, a, b);
    }

    function test_open_ByContractWallet() public {
        Wallet wallet = new Wallet(vm.addr(0xC1));
        fund(address(wallet), 50e6);
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.requester = address(wallet);
        bytes32 id = escrow.agreementId(terms);
        bytes memory b = sign(providerKey, id);
        bytes memory bad = sign(0xC2, id);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, address(wallet))
        );
        escrow.open(terms, bad, b);
        escrow.open(terms, sign(0xC1, id), b);
        assertStatus(id, IEscrowTypes.Status.Open);
    }

    function test_open_ContractWalletsOperator() public {
        Wallet wallet = new Wallet(vm.addr(0xC1));
        fund(address(wallet), 50e6);
        wallet.run(
            address(escrow),
            abi.encodeCall(escrow.authorise, (requesterHot, address(token), 11e6, uint40(START)))
        );
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.requester = address(wallet);
        bytes32 id = escrow.agreementId(terms);
        escrow.open(terms, sign(requesterHotKey, id), sign(providerKey, id));
        assertEq(free(address(wallet)), 39e6);
    }

    function test_open_NativeCoin() public {
        vm.deal(requester, 1 ether);
        vm.deal(provider, 1 ether);
        vm.prank(requester);
        escrow.depositNative{value: 1 ether}();
        vm.startPrank(provider);
        escrow.depositNative{value: 1 ether}();
        escrow.stake(address(0), 1 ether);
        vm.stopPrank();
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.token = address(0);
        open(terms);
        vm.warp(START + 100);
        settle(terms, 100 * PER_SECOND, true);
        vm.prank(provider);
        escrow.withdraw(address(0), 100 * PER_SECOND);
        assertEq(provider.balance, 100 * PER_SECOND);
    }

    function test_openMany_AllOrNothing() public {
        IEscrowTypes.Terms[] memory terms = new IEscrowTypes.Terms[](2);
        bytes[] memory a = new bytes[](2);
        bytes[] memory b = new bytes[](2);
        for (uint256 i; i < 2; ++i) {
            terms[i] = makeTerms();
            terms[i].units = 1 << i;
            bytes32 id = escrow.agreementId(terms[i]);
            a[i] = sign(requesterKey, id);
            b[i] = sign(providerKey, id);
        }
        vm.expectRevert(IEscrowEvents.Escrow_LengthMismatch.selector);
        escrow.openMany(terms, new bytes[](1), b);
        vm.expectRevert(IEscrowEvents.Escrow_LengthMismatch.selector);
        escrow.openMany(terms, a, new bytes[](1));
        bytes memory good = b[1];
        b[1] = a[1];
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, provider)
        );
        escrow.openMany(terms, a, b);
        b[1] = good;
        bytes32[] memory ids = escrow.openMany(terms, a, b);
        assertStatus(ids[0], IEscrowTypes.Status.Open);
        assertStatus(ids[1], IEscrowTypes.Status.Open);
    }

    function test_extend_TopsUp() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        IEscrowTypes.Extension memory extension = IEscrowTypes.Extension(id, 5e6, 0);
        bytes memory a = sign(requesterKey, escrow.extensionDigest(extension));
        escrow.extend(terms, extension, a, NONE);
        assertEq(free(requester), 100e6 - DEPOSIT - BOND - 5e6);
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAmount.selector);
        escrow.extend(terms, extension, a, NONE);
        extension.deposit = 4e6;
        vm.prank(requester);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_AmountOutOfRange.selector, 4e6, 5e6, type(uint96).max
            )
        );
        escrow.extend(terms, extension, NONE, NONE);

        // Ten million would be used up after the end; the top-up pays to it.
        vm.warp(START + DURATION);
        settle(terms, 12e6, true);
        assertMoved(DURATION * PER_SECOND, 0, 0, 0);
    }

    function test_extend_LongerNeedsTheProvider() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        IEscrowTypes.Extension memory extension = IEscrowTypes.Extension(id, 5e6, 2500);
        bytes32 digest = escrow.extensionDigest(extension);
        vm.prank(requester);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadSignature.selector, provider)
        );
        escrow.extend(terms, extension, NONE, NONE);
        vm.prank(requester);
        vm.expectEmit();
        emit IEscrowEvents.Extended(id, 5e6, 2500);
        escrow.extend(terms, extension, NONE, sign(providerHotKey, digest));
        vm.warp(START + 7000);
        settle(terms, 14e6, true);
        assertMoved(14e6, 0, 0, 0);
    }

    function test_extend_Refusals() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        IEscrowTypes.Extension memory extension = IEscrowTypes.Extension(bytes32(0), 5e6, 0);
        vm.startPrank(requester);
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_WrongAgreement.selector, id, bytes32(0))
        );
        escrow.extend(terms, extension, NONE, NONE);
        extension = IEscrowTypes.Extension(id, 5e6, uint32(90 days));
        vm.expectRevert(
            abi.encodeWithSelector(IEscrowEvents.Escrow_BadTerms.selector, bytes32("duration"))
        );
        escrow.extend(terms, extension, NONE, NONE);
        extension.duration = 0;
        vm.warp(START + DURATION);
        vm.expectRevert(tooLate(START + DURATION - 1));
        escrow.extend(terms, extension, NONE, NONE);
        escrow.requesterClose(terms);
        vm.expectRevert(wrongStatus(id, IEscrowTypes.Status.ClosingByRequester));
        escrow.extend(terms, extension, NONE, NONE);
    }
}
