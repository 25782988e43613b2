// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";
import {MoodyWallet} from "../Mocks.sol";

/// @notice A counterparty that is paused, broken, bankrupt or silent cannot hold the other's money.
contract TrappedTest is Base {
    function test_trapped_BankruptRequesterStillPaysWhatItLocked() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        uint256 rest = free(requester);
        vm.prank(requester);
        escrow.withdraw(address(token), rest);
        vm.warp(START + DURATION);
        settle(terms, DEPOSIT, false);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertEq(free(provider), 40e6 + DEPOSIT);
    }

    function test_trapped_BankruptRequesterMayStillChallenge() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        uint256 rest = free(requester);
        vm.prank(requester);
        escrow.withdraw(address(token), rest);
        vm.warp(START + 1000);
        challenge(terms, 9); // the bond was locked at the open
        vm.warp(START + 1001 + WINDOW);
        escrow.slash(terms);
        assertStatus(id, IEscrowTypes.Status.Slashed);
        assertEq(free(requester), DEPOSIT - 2e6 + BOND + 6e6);
    }

    function test_trapped_BankruptProviderIsSlashedFromWhatIsLocked() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.money.pricePerHour = 0;
        terms.timing.duration = 3 days;
        bytes32 id = open(terms);
        vm.startPrank(provider);
        escrow.unstake(address(token), 40e6);
        escrow.withdraw(address(token), 40e6);
        vm.warp(START + 1 days);
        escrow.completeUnstake(address(token));
        escrow.withdraw(address(token), 40e6);
        vm.stopPrank();
        challenge(terms, 9);
        vm.warp(START + 1 days + WINDOW + 1);
        escrow.slash(terms);
        assertStatus(id, IEscrowTypes.Status.Slashed);
        assertEq(staked(provider), 10e6, "the half that was not slashed");
        assertEq(free(requester), 100e6 + 6e6);
    }

    /// @dev Unstaking ahead of a slash saves nothing: what is locked is not in the stake, and what
    /// thaws was never at risk.
    function test_trapped_ThawRacesTheSlash() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        vm.warp(START + 1000);
        challenge(terms, 9);
        vm.prank(provider);
        escrow.unstake(address(token), 40e6);
        vm.warp(START + 1001 + WINDOW);
        escrow.slash(terms);
        (, uint256 stakeLeft, uint256 thawing,) = escrow.balance(address(token), provider);
        assertEq(stakeLeft, 10e6);
        assertEq(thawing, 40e6);
        assertEq(escrow.burned(address(token)), 4e6);
    }

    function broken(bool asRequester)
        internal
        returns (IEscrowTypes.Terms memory terms, bytes32 id)
    {
        MoodyWallet wallet = new MoodyWallet(vm.addr(0xC1));
        fund(address(wallet), 50e6);
        terms = makeTerms();
        if (asRequester) {
            terms.parties.requester = address(wallet);
        } else {
            terms.parties.provider = address(wallet);
            wallet.run(address(escrow), abi.encodeCall(escrow.stake, (address(token), 30e6)));
        }
        terms.timing.duration = 3000;
        id = escrow.agreementId(terms);
        bytes memory a = sign(asRequester ? 0xC1 : requesterKey, id);
        bytes memory b = sign(asRequester ? providerKey : 0xC1, id);
        escrow.open(terms, a, b);
        wallet.set(MoodyWallet.Mood.Reverts, address(0), "");
        vm.warp(START + 1000);
    }

    function test_trapped_PausedRequesterWallet() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = broken(true);
        claim(terms, 2e6);
        settle(terms, 2e6, true);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertEq(free(provider), 42e6);
        assertEq(staked(provider), 60e6);
    }

    function test_trapped_PausedProviderWallet() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = broken(false);
        vm.prank(requester);
        escrow.requesterClose(terms);
        vm.warp(START + 1001 + CLAIM_WINDOW);
        vm.prank(anyone);
        escrow.finalize(terms);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertEq(free(requester), 100e6);
    }

    function test_trapped_PausedArbiter() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.arbiter = address(new MoodyWallet(address(1)));
        bytes32 id = open(terms);
        vm.prank(requester);
        escrow.dispute(terms);
        vm.warp(START + 1001);
        vm.prank(anyone);
        escrow.finalize(terms);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertMoved(0, 0, 0, 0);
    }

    /// @dev Both vanish: a stranger frees both, from every status, in the first second after.
    function test_trapped_BothVanishInEveryStatus() public {
        for (uint256 i; i < 5; ++i) {
            uint256 start = START + i * 100_000;
            vm.warp(start);
            IEscrowTypes.Terms memory terms = makeTerms();
            terms.timing.openBy = uint40(start);
            terms.salt = bytes32(i);
            terms.money.slashBps = 0;
            if (i == 4) terms.parties.arbiter = arbiter;
            bytes32 id = open(terms);
            vm.warp(start + 1000);
            uint256 expiry = start + DURATION + CLAIM_WINDOW;
            if (i == 1) {
                vm.prank(requester);
                escrow.requesterClose(terms);
                expiry = start + 1000 + CLAIM_WINDOW;
            } else if (i == 2) {
                vm.prank(provider);
                escrow.providerClose(terms);
                expiry = start + 1000 + WINDOW;
            } else if (i == 3) {
                challenge(terms, 9);
                expiry = start + 1000 + WINDOW;
            } else if (i == 4) {
                vm.prank(requester);
                escrow.dispute(terms);
                expiry = start + 1000 + 1000;
            }
            vm.warp(expiry);
            vm.expectRevert(tooEarly(expiry + 1));
            i == 3 ? escrow.slash(terms) : escrow.finalize(terms);
            vm.warp(expiry + 1);
            vm.prank(anyone);
            i == 3 ? escrow.slash(terms) : escrow.finalize(terms);
            assertEq(escrow.unitsTaken(provider), 0);
            assertGe(uint256(statusOf(id)), uint256(IEscrowTypes.Status.Closed));
        }
    }
}
