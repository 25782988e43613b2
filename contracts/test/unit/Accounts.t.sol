// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";
import {NativeThief} from "../Mocks.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

contract AccountsTest is Base {
    function test_constructor_RefusesBadLimits() public {
        for (uint256 i; i < 5; ++i) {
            IEscrowTypes.Limits memory bad = limits();
            if (i == 0) bad.minWindow = 0;
            if (i == 1) bad.minWindow = bad.maxWindow + 1;
            if (i == 2) bad.minClaimWindow = 0;
            if (i == 3) bad.minClaimWindow = bad.maxClaimWindow + 1;
            if (i == 4) bad.maxDuration = 0;
            vm.expectRevert(IEscrowEvents.Escrow_BadLimits.selector);
            new Escrow(bad);
        }
    }

    function test_limits_AreThePreset() public view {
        assertEq(abi.encode(escrow.limits()), abi.encode(limits()));
    }

    function test_deposit_Credits() public {
        token.mint(anyone, 5);
        vm.startPrank(anyone);
        token.approve(address(escrow), 5);
        vm.expectEmit();
        emit IEscrowEvents.Deposited(address(token), anyone, anyone, 5);
        escrow.deposit(address(token), 5);
        assertEq(free(anyone), 5);
    }

    function test_deposit_RevertsOnZeroAndNative() public {
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAmount.selector);
        escrow.deposit(address(token), 0);
        vm.expectRevert(IEscrowEvents.Escrow_NativeToken.selector);
        escrow.deposit(address(0), 1);
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAmount.selector);
        escrow.depositNative();
    }

    function test_deposit_RevertsAboveUint128() public {
        uint256 huge = uint256(1) << 128;
        token.mint(anyone, huge);
        vm.startPrank(anyone);
        token.approve(address(escrow), huge);
        vm.expectRevert(
            abi.encodeWithSelector(SafeCast.SafeCastOverflowedUintDowncast.selector, 128, huge)
        );
        escrow.deposit(address(token), huge);
    }

    function test_depositFor_CreditsTheOther() public {
        token.mint(anyone, 5);
        vm.startPrank(anyone);
        token.approve(address(escrow), 5);
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAddress.selector);
        escrow.depositFor(address(token), address(0), 5);
        escrow.depositFor(address(token), provider, 5);
        assertEq(free(provider), 40e6 + 5);
    }

    function test_depositWithPermit_WorksAlsoIfThePermitWasFrontRun() public {
        for (uint256 i; i < 2; ++i) {
            token.mint(requester, 7);
            bytes32 digest = keccak256(
                abi.encodePacked(
                    "\x19\x01",
                    token.DOMAIN_SEPARATOR(),
                    keccak256(
                        abi.encode(
                            keccak256(
                                "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"
                            ),
                            requester,
                            address(escrow),
                            7,
                            token.nonces(requester),
                            START
                        )
                    )
                )
            );
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(requesterKey, digest);
            if (i == 1) token.permit(requester, address(escrow), 7, START, v, r, s);
            vm.prank(requester);
            escrow.depositWithPermit(address(token), 7, START, v, r, s);
        }
        assertEq(free(requester), 100e6 + 14);
    }

    function test_native_DepositAndWithdraw() public {
        vm.deal(anyone, 1 ether);
        vm.startPrank(anyone);
        escrow.depositNative{value: 1 ether}();
        escrow.withdraw(address(0), 0.4 ether);
        assertEq(anyone.balance, 0.4 ether);
        (uint256 left,,,) = escrow.balance(address(0), anyone);
        assertEq(left, 0.6 ether);
    }

    function test_native_RevertsIfRefused() public {
        NativeThief thief = new NativeThief{value: 1 ether}(escrow);
        thief.put(1 ether);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_NativeTransferFailed.selector, address(thief), 1 ether
            )
        );
        thief.take(1 ether, false, true);
    }

    function test_withdraw_PaysTheSenderOnly() public {
        vm.startPrank(requester);
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAmount.selector);
        escrow.withdraw(address(token), 0);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_InsufficientFree.selector,
                address(token),
                requester,
                100e6,
                100e6 + 1
            )
        );
        escrow.withdraw(address(token), 100e6 + 1);
        vm.expectEmit();
        emit IEscrowEvents.Withdrawn(address(token), requester, 100e6);
        escrow.withdraw(address(token), 100e6);
        assertEq(token.balanceOf(requester), 100e6);
    }

    function test_stake_UnstakeThaws() public {
        vm.startPrank(provider);
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAmount.selector);
        escrow.stake(address(token), 0);
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAmount.selector);
        escrow.unstake(address(token), 0);
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAmount.selector);
        escrow.completeUnstake(address(token));
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_InsufficientStake.selector,
                address(token),
                provider,
                60e6,
                61e6
            )
        );
        escrow.unstake(address(token), 61e6);

        escrow.unstake(address(token), 10e6);
        vm.warp(START + 1 hours);
        vm.expectEmit();
        emit IEscrowEvents.UnstakeStarted(
            address(token), provider, 5e6, 15e6, START + 1 hours + 1 days
        );
        escrow.unstake(address(token), 5e6);
        vm.warp(START + 1 hours + 1 days - 1);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_StillThawing.selector, START + 1 hours + 1 days
            )
        );
        escrow.completeUnstake(address(token));
        vm.warp(START + 1 hours + 1 days);
        escrow.completeUnstake(address(token));
        (uint256 f, uint256 s, uint256 thawing, uint256 at) =
            escrow.balance(address(token), provider);
        assertEq(abi.encode(f, s, thawing, at), abi.encode(55e6, 45e6, 0, 0));
    }

    function test_stake_ThawingBacksNoAgreement() public {
        vm.prank(provider);
        escrow.unstake(address(token), 41e6);
        IEscrowTypes.Terms memory terms = makeTerms();
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_InsufficientStake.selector,
                address(token),
                provider,
                19e6,
                20e6
            )
        );
        escrow.open(terms, a, b);
    }

    function test_authorise_SetsAndRevokes() public {
        vm.startPrank(requester);
        vm.expectRevert(IEscrowEvents.Escrow_ZeroAddress.selector);
        escrow.authorise(address(0), address(token), 1, 1);
        escrow.authorise(requesterHot, address(token), 9, 77);
        (uint128 allowance, uint40 expiry) =
            escrow.authorisation(requester, requesterHot, address(token));
        assertEq(allowance, 9);
        assertEq(expiry, 77);
        escrow.revoke(requesterHot, address(token));
        (allowance, expiry) = escrow.authorisation(requester, requesterHot, address(token));
        assertEq(allowance + expiry, 0);
    }

    function test_multicall_DepositsAndAuthorises() public {
        token.mint(requester, 5);
        vm.startPrank(requester);
        token.approve(address(escrow), 5);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(escrow.deposit, (address(token), 5));
        calls[1] = abi.encodeCall(escrow.authorise, (requesterHot, address(token), 5, 9));
        escrow.multicall(calls);
        assertEq(free(requester), 100e6 + 5);
    }

    function test_eip712Domain_NamesTheContract() public {
        (, string memory name, string memory version, uint256 chainId, address at,,) =
            escrow.eip712Domain();
        assertEq(
            abi.encode(name, version, chainId, at),
            abi.encode("gridsouk", "1", block.chainid, address(escrow))
        );
        bytes32 here = escrow.domainSeparator();
        vm.chainId(4242);
        assertNotEq(escrow.domainSeparator(), here);
    }
}
