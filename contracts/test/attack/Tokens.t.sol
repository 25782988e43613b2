// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";
import {
    FalseToken,
    GenerousToken,
    MoodyWallet,
    NativeMeddler,
    PausableToken,
    SilentToken
} from "../Mocks.sol";

/// @notice Tokens and receivers that do not behave.
contract TokensTest is Base {
    function test_attack_TokenThatReturnsNothingWorks() public {
        SilentToken silent = new SilentToken();
        silent.mint(anyone, 100);
        vm.startPrank(anyone);
        escrow.deposit(address(silent), 100);
        escrow.withdraw(address(silent), 60);
        (uint256 left,,,) = escrow.balance(address(silent), anyone);
        assertEq(left, 40);
        assertEq(silent.balanceOf(anyone), 60);
        assertEq(silent.balanceOf(address(escrow)), 40);
    }

    function test_attack_TokenThatReturnsFalseIsRefused() public {
        FalseToken bad = new FalseToken();
        vm.expectRevert(
            abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(bad))
        );
        escrow.deposit(address(bad), 1);
    }

    function test_attack_TokenThatGivesMoreIsRefused() public {
        GenerousToken generous = new GenerousToken();
        generous.mint(anyone, 100);
        vm.startPrank(anyone);
        generous.approve(address(escrow), 100);
        vm.expectRevert(
            abi.encodeWithSelector(
                IEscrowEvents.Escrow_WrongAmountReceived.selector, address(generous), 101, 100
            )
        );
        escrow.deposit(address(generous), 100);
    }

    function test_attack_AddressWithoutCodeIsNoToken() public {
        vm.expectRevert();
        escrow.deposit(address(0xC0DE1E55), 1);
        vm.expectRevert();
        escrow.depositWithPermit(address(0xC0DE1E55), 1, 1, 27, 0, 0);
    }

    /// @dev A token that stops moving stops deposits and withdrawals, and no agreement.
    function test_attack_PausedTokenTrapsNoAgreement() public {
        PausableToken pausable = new PausableToken();
        for (uint256 i; i < 2; ++i) {
            address account = i == 0 ? requester : provider;
            pausable.mint(account, 50e6);
            vm.startPrank(account);
            pausable.approve(address(escrow), 50e6);
            escrow.deposit(address(pausable), 50e6);
            vm.stopPrank();
        }
        vm.prank(provider);
        escrow.stake(address(pausable), 20e6);
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.token = address(pausable);
        bytes32 id = open(terms);
        pausable.pause(true);
        vm.prank(provider);
        vm.expectRevert("paused");
        escrow.withdraw(address(pausable), 1);
        vm.warp(START + 1000);
        settle(terms, 2e6, true);
        assertStatus(id, IEscrowTypes.Status.Closed);
        (uint256 paid,,,) = escrow.balance(address(pausable), provider);
        assertEq(paid, 32e6);
        pausable.pause(false);
        vm.prank(provider);
        escrow.withdraw(address(pausable), 32e6);
    }

    /// @dev Other doors stand open while a receiver is being paid; the ledger was written before.
    function test_attack_NativeReceiverMeddlesAndGainsNothing() public {
        NativeMeddler meddler = new NativeMeddler{value: 3 ether}(escrow);
        meddler.put(3 ether);
        meddler.take(1 ether, abi.encodeCall(escrow.stake, (address(0), 3 ether)));
        assertFalse(meddler.done(), "what is on its way is not there any more");
        meddler.take(1 ether, abi.encodeCall(escrow.stake, (address(0), 1 ether)));
        assertTrue(meddler.done());
        (uint256 left, uint256 staked,,) = escrow.balance(address(0), address(meddler));
        assertEq(left, 0);
        assertEq(staked, 1 ether);
        assertEq(address(escrow).balance, 1 ether);
    }

    /// @dev A wallet is asked under a staticcall: it can look, and change nothing.
    function test_attack_WalletReentersWhileItIsAsked() public {
        MoodyWallet wallet = new MoodyWallet(vm.addr(0xC1));
        fund(address(wallet), 50e6);
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.requester = address(wallet);
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(0xC1, id);
        bytes memory b = sign(providerKey, id);
        wallet.set(
            MoodyWallet.Mood.Reenters,
            address(escrow),
            abi.encodeCall(escrow.withdraw, (address(token), 50e6))
        );
        vm.expectPartialRevert(IEscrowEvents.Escrow_BadSignature.selector);
        escrow.open(terms, a, b);
        wallet.set(MoodyWallet.Mood.Good, address(0), "");
        escrow.open(terms, a, b);
    }
}
