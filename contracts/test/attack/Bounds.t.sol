// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";

/// @notice Griefing in numbers: the most that each side can cost the other (docs/SECURITY.md).
contract BoundsTest is Base {
    /// @dev Over a whole agreement: at most (duration - grace) / window challenges, each of which
    /// pays the provider one bond.
    function test_bound_ChallengesPayTheProvider() public {
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), type(uint128).max, type(uint40).max);
        (IEscrowTypes.Terms memory terms,) = opened();
        uint256 count;
        for (uint256 now_ = START + GRACE; now_ < START + DURATION; now_ += WINDOW) {
            vm.warp(now_);
            challenge(terms, uint48(++count));
            answer(terms, uint64(count), uint48(count));
        }
        assertEq(count, (DURATION - GRACE + WINDOW - 1) / WINDOW);
        vm.warp(START + DURATION);
        settle(terms, DEPOSIT, true);
        assertEq(free(provider), 40e6 + DEPOSIT + count * BOND, "the price of the spam");
        assertEq(staked(provider), 60e6);
    }

    /// @dev A provider that works for a requester that never vouches loses no more than what it
    /// worked beyond its own grace; the chain gives it the offline allowance.
    function test_bound_UnpaidProviderGetsTheOfflineAllowance() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 2000);
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) = heartbeatOf(id, 1, 2000, 0);
        escrow.claimOffline(terms, beat, signature);
        assertEq(escrow.agreement(id).paid, OFFLINE * PER_SECOND);
    }

    /// @dev A lying provider meters what it did not work: never beyond the allowance, nor beyond
    /// the time that passed.
    function test_bound_OverstatedSecondsCostTheAllowance() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 10);
        (IEscrowTypes.Heartbeat memory beat, bytes memory signature) =
            heartbeatOf(id, 1, type(uint32).max, 0);
        escrow.claimOffline(terms, beat, signature);
        assertEq(escrow.agreement(id).paid, 10 * PER_SECOND);
        vm.warp(START + DURATION);
        (beat, signature) = heartbeatOf(id, 2, type(uint32).max, 0);
        escrow.claimOffline(terms, beat, signature);
        assertEq(escrow.agreement(id).paid, OFFLINE * PER_SECOND);
    }

    /// @dev The longest that a party can hold the other's money against its will.
    function test_bound_LongestLock() public {
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.parties.arbiter = arbiter;
        bytes32 id = open(terms);
        // The provider closes in the last second in which nobody else may end it; the requester
        // disputes in the last second of the window; the arbiter sleeps.
        vm.warp(START + DURATION + CLAIM_WINDOW);
        vm.prank(provider);
        escrow.providerClose(terms);
        vm.warp(START + DURATION + CLAIM_WINDOW + WINDOW);
        vm.prank(requester);
        escrow.dispute(terms);
        uint256 last = START + DURATION + CLAIM_WINDOW + WINDOW + terms.timing.arbiterWindow;
        assertEq(escrow.agreement(id).deadline, last);
        vm.warp(last + 1);
        vm.prank(anyone);
        escrow.finalize(terms);
        assertStatus(id, IEscrowTypes.Status.Closed);
    }

    /// @dev A stolen requester signer that authorises nothing costs at most: one bond, and pay for
    /// time that has passed.
    function test_bound_StolenRequesterSigner() public {
        (IEscrowTypes.Terms memory terms, bytes32 id) = opened();
        vm.warp(START + 1000);
        challenge(terms, 1);
        answer(terms, 1, 1);
        settle(terms, DEPOSIT, true);
        assertStatus(id, IEscrowTypes.Status.Closed);
        assertEq(free(requester), 100e6 - 1000 * PER_SECOND - BOND);
    }

    /// @dev A provider that vanishes when paid loses slashBps of the collateral; a victim gains
    /// less than was burned plus what it gained, so that breaking one's own provider costs money.
    function test_bound_SelfInflictedSlashBurns() public {
        (IEscrowTypes.Terms memory terms,) = opened();
        vm.warp(START + 1000);
        challenge(terms, 1);
        vm.warp(START + 1001 + WINDOW);
        escrow.slash(terms);
        uint256 together = free(requester) + free(provider) + staked(provider);
        assertEq(together, 200e6 - 4e6, "two hands of one owner lose what is burned");
    }
}
