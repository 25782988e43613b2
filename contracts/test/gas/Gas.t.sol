// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";

/// @notice Whole-transaction gas (base fee of 21,000 and calldata in it) in steady state: run with
/// tools/gas.sh, which writes or checks snapshots/. The goals are those of issue 4.
contract GasTest is Base {
    uint256 internal salt;

    function setUp() public override {
        super.setUp();
        vm.warp(START);
        // Steady state: both parties have money and a history.
        IEscrowTypes.Terms memory terms = makeTerms();
        terms.salt = keccak256("history");
        open(terms);
        vm.warp(START + 10);
        settle(terms, 10 * PER_SECOND, true);
    }

    function _terms(uint256 units) internal returns (IEscrowTypes.Terms memory terms) {
        terms = makeTerms();
        terms.units = units;
        terms.money.deposit = 1e6;
        terms.money.bond = 1e5;
        terms.money.collateral = 1e6;
        terms.salt = keccak256(abi.encode("gas", ++salt));
    }

    function test_gas_OpenSettle() public {
        IEscrowTypes.Terms memory terms = _terms(1);
        bytes32 id = escrow.agreementId(terms);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.prank(anyone);
        escrow.open(terms, a, b);
        uint256 opening = vm.snapshotGasLastCall("open, relayer, two signatures");
        assertLe(opening, 98_000, "goal");
        vm.warp(START + 500);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 2e5, false);
        vm.prank(anyone);
        escrow.claim(terms, voucher, signature);
        vm.snapshotGasLastCall("claim");
        (voucher, signature) = voucherOf(id, 4e5, true);
        vm.prank(providerHot);
        escrow.settle(terms, voucher, signature);
        assertLe(opening + vm.snapshotGasLastCall("settle, last voucher"), 155_000, "goal");
    }

    function test_gas_OpenOtherWays() public {
        IEscrowTypes.Terms memory terms = _terms(1);
        bytes32 id = escrow.agreementId(terms);
        bytes memory b = sign(providerKey, id);
        vm.prank(requester);
        escrow.open(terms, NONE, b);
        vm.snapshotGasLastCall("open by requester");
        vm.prank(requester);
        escrow.authorise(requesterHot, address(token), 50e6, type(uint40).max);
        vm.snapshotGasLastCall("authorise");
        vm.prank(provider);
        escrow.authorise(providerHot, address(token), type(uint128).max, type(uint40).max);
        terms = _terms(2);
        id = escrow.agreementId(terms);
        bytes memory a = sign(requesterHotKey, id);
        b = sign(providerHotKey, id);
        vm.prank(anyone);
        escrow.open(terms, a, b);
        vm.snapshotGasLastCall("open, two operators");
    }

    function test_gas_Silence() public {
        IEscrowTypes.Terms memory terms = _terms(1);
        bytes32 id = open(terms);
        vm.warp(START + 300);
        (IEscrowTypes.Voucher memory voucher, bytes memory signature) = voucherOf(id, 3e5, false);
        vm.prank(requesterHot);
        escrow.challenge(terms, voucher, signature, 0x123456789abc);
        assertLe(vm.snapshotGasLastCall("challenge, with voucher"), 66_000, "goal");
        (IEscrowTypes.Heartbeat memory beat, bytes memory beatSignature) =
            heartbeatOf(id, 1, 100, 0x123456789abc);
        vm.prank(anyone);
        escrow.answer(terms, beat, beatSignature);
        assertLe(vm.snapshotGasLastCall("answer"), 57_000, "goal");

        for (uint256 i; i < 2; ++i) {
            terms = _terms(2 << i);
            vm.warp(START + 1000 * i);
            id = open(terms);
            vm.warp(START + 300 + 1000 * i);
            (voucher,) = voucherOf(id, 3e5, false);
            vm.prank(requesterHot);
            escrow.challenge(terms, voucher, NONE, 0x123456789abc);
            vm.snapshotGasLastCall("challenge, sender signs");
            vm.warp(START + 301 + WINDOW + 1000 * i);
            vm.prank(anyone);
            escrow.slash(terms);
            uint256 slashing = vm.snapshotGasLastCall(i == 0 ? "slash, first burn" : "slash");
            if (i == 1) assertLe(slashing, 62_000, "goal");
        }
        terms = _terms(8);
        id = open(terms);
        (beat, beatSignature) = heartbeatOf(id, 1, 100, 0);
        (IEscrowTypes.Heartbeat memory other, bytes memory otherSignature) =
            heartbeatOf(id, 1, 99, 0);
        vm.prank(anyone);
        escrow.slashEquivocation(terms, beat, beatSignature, other, otherSignature);
        vm.snapshotGasLastCall("slashEquivocation");
    }

    function test_gas_Closing() public {
        IEscrowTypes.Terms memory terms = _terms(1);
        bytes32 id = open(terms);
        vm.warp(START + 300);
        vm.prank(requester);
        escrow.requesterClose(terms);
        vm.snapshotGasLastCall("requesterClose");
        vm.warp(START + 301 + CLAIM_WINDOW);
        vm.prank(anyone);
        escrow.finalize(terms);
        vm.snapshotGasLastCall("finalize");
        terms = _terms(2);
        id = escrow.agreementId(terms);
        bytes memory a = sign(requesterKey, id);
        bytes memory b = sign(providerKey, id);
        vm.prank(anyone);
        escrow.open(terms, a, b);
        vm.warp(block.timestamp + 1000);
        IEscrowTypes.Settlement memory settlement = IEscrowTypes.Settlement(id, 1e5, 0);
        bytes32 digest = escrow.settlementDigest(settlement);
        a = sign(requesterHotKey, digest);
        b = sign(providerHotKey, digest);
        vm.prank(anyone);
        escrow.closeSigned(terms, settlement, a, b);
        vm.snapshotGasLastCall("closeSigned, with payment");
    }

    function test_gas_Batches() public {
        uint256[3] memory sizes = [uint256(5), 10, 20];
        for (uint256 k; k < 3; ++k) {
            uint256 n = sizes[k];
            vm.warp(START + k * 1000);
            IEscrowTypes.Terms[] memory terms = new IEscrowTypes.Terms[](n);
            IEscrowTypes.Voucher[] memory vouchers = new IEscrowTypes.Voucher[](n);
            bytes[] memory a = new bytes[](n);
            bytes[] memory b = new bytes[](n);
            for (uint256 i; i < n; ++i) {
                terms[i] = _terms(1 << i);
                bytes32 id = escrow.agreementId(terms[i]);
                a[i] = sign(requesterKey, id);
                b[i] = sign(providerKey, id);
            }
            vm.prank(anyone);
            escrow.openMany(terms, a, b);
            uint256 opening = vm.snapshotGasLastCall(string.concat("openMany ", vm.toString(n)));
            vm.warp(START + k * 1000 + 500);
            for (uint256 i; i < n; ++i) {
                (vouchers[i], a[i]) = voucherOf(escrow.agreementId(terms[i]), 4e5, true);
            }
            vm.prank(providerHot);
            escrow.settleMany(terms, vouchers, a);
            uint256 settling = vm.snapshotGasLastCall(string.concat("settleMany ", vm.toString(n)));
            if (n == 20) assertLe((opening + settling) / n, 90_000, "goal");
        }
    }

    function test_gas_Ledger() public {
        token.mint(requester, 20e6);
        vm.startPrank(requester);
        token.approve(address(escrow), 20e6);
        escrow.deposit(address(token), 10e6);
        vm.snapshotGasLastCall("deposit, again");
        escrow.withdraw(address(token), 1e6);
        vm.snapshotGasLastCall("withdraw");
        vm.stopPrank();
        vm.startPrank(provider);
        escrow.stake(address(token), 1e6);
        vm.snapshotGasLastCall("stake");
        escrow.unstake(address(token), 1e6);
        vm.snapshotGasLastCall("unstake, first");
    }
}
