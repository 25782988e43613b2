// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Vm} from "forge-std/Vm.sol";

import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";

/// @notice A batch is the sequence of its singles: the same state, the same logs.
contract BatchTest is Base {
    uint256 internal constant COUNT = 4;

    function _terms(uint256 seed) internal view returns (IEscrowTypes.Terms[] memory terms) {
        terms = new IEscrowTypes.Terms[](COUNT);
        for (uint256 i; i < COUNT; ++i) {
            terms[i] = makeTerms();
            terms[i].units = 1 << ((seed >> (8 * i)) % 6); // sometimes two want the same
            terms[i].money.collateral = 10e6 + uint96((seed >> (64 + i)) % 2) * 12e6;
            terms[i].salt = bytes32(i);
        }
    }

    /// @dev All that can have changed.
    function _state(IEscrowTypes.Terms[] memory terms) internal view returns (bytes memory) {
        bytes memory agreements;
        for (uint256 i; i < COUNT; ++i) {
            agreements = bytes.concat(
                agreements, abi.encode(escrow.agreement(escrow.agreementId(terms[i])))
            );
        }
        return abi.encode(
            free(requester),
            free(provider),
            staked(provider),
            escrow.burned(address(token)),
            escrow.unitsTaken(provider),
            agreements
        );
    }

    /// @dev Without SettleSkipped, which only a batch says.
    function _logs() internal returns (bytes memory all) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].topics[0] == IEscrowEvents.SettleSkipped.selector) continue;
            all = bytes.concat(all, abi.encode(logs[i].topics, logs[i].data));
        }
    }

    function testFuzz_openMany_EqualsSingles(uint256 seed) public {
        IEscrowTypes.Terms[] memory terms = _terms(seed);
        bytes[] memory a = new bytes[](COUNT);
        bytes[] memory b = new bytes[](COUNT);
        for (uint256 i; i < COUNT; ++i) {
            bytes32 id = escrow.agreementId(terms[i]);
            a[i] = sign(requesterKey, id);
            b[i] = sign(providerKey, id);
        }
        bytes memory before = _state(terms);
        uint256 snapshot = vm.snapshotState();
        vm.recordLogs();
        bool all = true;
        for (uint256 i; i < COUNT; ++i) {
            (bool done,) = address(escrow).call(abi.encodeCall(escrow.open, (terms[i], a[i], b[i])));
            all = all && done;
        }
        bytes memory logs = _logs();
        bytes memory singles = _state(terms);
        vm.revertToState(snapshot);
        (bool together,) = address(escrow).call(abi.encodeCall(escrow.openMany, (terms, a, b)));
        assertEq(together, all, "all or none");
        if (all) {
            assertEq(_state(terms), singles, "state");
            assertEq(_logs(), logs, "logs");
        } else {
            assertEq(_state(terms), before, "nothing changed");
        }
    }

    function testFuzz_settleMany_EqualsSingles(
        uint96[4] memory amounts,
        bool[4] memory last,
        bool[4] memory forged,
        uint256 seed
    ) public {
        IEscrowTypes.Terms[] memory terms = new IEscrowTypes.Terms[](COUNT);
        IEscrowTypes.Voucher[] memory vouchers = new IEscrowTypes.Voucher[](COUNT);
        bytes[] memory signatures = new bytes[](COUNT);
        for (uint256 i; i < COUNT; ++i) {
            terms[i] = makeTerms();
            terms[i].units = 1 << i;
            terms[i].money.collateral = 10e6;
            open(terms[i]);
        }
        vm.warp(START + seed % 7000);
        for (uint256 i; i < COUNT; ++i) {
            bytes32 id = escrow.agreementId(terms[i]);
            (vouchers[i], signatures[i]) = voucherOf(id, amounts[i] % 3e7, last[i]);
            if (forged[i]) vouchers[i].amount += 1;
        }
        uint256 snapshot = vm.snapshotState();
        vm.recordLogs();
        for (uint256 i; i < COUNT; ++i) {
            vm.prank(providerHot);
            (bool done,) = address(escrow)
                .call(abi.encodeCall(escrow.settle, (terms[i], vouchers[i], signatures[i])));
            assertEq(done, !forged[i]);
        }
        bytes memory logs = _logs();
        bytes memory singles = _state(terms);
        vm.revertToState(snapshot);
        vm.prank(providerHot);
        escrow.settleMany(terms, vouchers, signatures);
        assertEq(_state(terms), singles, "state");
        assertEq(_logs(), logs, "logs");
    }
}
