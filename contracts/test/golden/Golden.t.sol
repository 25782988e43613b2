// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Escrow} from "../../src/Escrow.sol";
import {IEscrowEvents} from "../../src/IEscrowEvents.sol";
import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {Base} from "../Base.t.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @notice The contract against tests/golden, which an independent Python reference wrote.
contract GoldenTest is Base {
    string internal json;
    Escrow internal golden;

    function _load(string memory name) internal {
        json = vm.readFile(string.concat("../tests/golden/", name));
    }

    function _deploy() internal {
        _load("eip712.json");
        vm.chainId(vm.parseJsonUint(json, ".domain.chainId"));
        address at = vm.parseJsonAddress(json, ".domain.verifyingContract");
        deployCodeTo("Escrow.sol:Escrow", abi.encode(limits()), at);
        golden = Escrow(at);
    }

    function _at(string memory table, uint256 i, string memory rest)
        internal
        pure
        returns (string memory)
    {
        return string.concat(".", table, "[", vm.toString(i), "]", rest);
    }

    function _uint(string memory table, uint256 i, string memory rest)
        internal
        view
        returns (uint256)
    {
        return vm.parseJsonUint(json, _at(table, i, rest));
    }

    function _word(string memory table, uint256 i, string memory rest)
        internal
        view
        returns (bytes32)
    {
        return vm.parseJsonBytes32(json, _at(table, i, rest));
    }

    function _party(uint256 i, string memory name) internal view returns (address) {
        return vm.parseJsonAddress(json, _at("terms", i, string.concat(".message.parties.", name)));
    }

    function _more(string memory table, uint256 i) internal view returns (bool) {
        return vm.keyExistsJson(json, _at(table, i, ""));
    }

    function _check(string memory table, uint256 i, bytes32 digest) internal view {
        assertEq(digest, _word(table, i, ".digest"), table);
        bytes memory signature = vm.parseJsonBytes(json, _at(table, i, ".signature"));
        address signer = vm.parseJsonAddress(json, ".address");
        assertEq(ECDSA.recover(digest, signature), signer);
        uint256 key = vm.parseJsonUint(json, ".key");
        assertEq(sign(key, digest), signature);
    }

    function test_golden_Terms() public {
        _deploy();
        uint256 i;
        for (; _more("terms", i); ++i) {
            IEscrowTypes.Terms memory t;
            t.parties = IEscrowTypes.Parties(
                _party(i, "requester"),
                _party(i, "provider"),
                _party(i, "requesterSigner"),
                _party(i, "providerSigner"),
                _party(i, "token"),
                _party(i, "arbiter")
            );
            t.money.deposit = uint96(_uint("terms", i, ".message.money.deposit"));
            t.money.collateral = uint96(_uint("terms", i, ".message.money.collateral"));
            t.money.pricePerHour = uint96(_uint("terms", i, ".message.money.pricePerHour"));
            t.money.bond = uint96(_uint("terms", i, ".message.money.bond"));
            t.money.slashBps = uint16(_uint("terms", i, ".message.money.slashBps"));
            t.money.victimShareBps = uint16(_uint("terms", i, ".message.money.victimShareBps"));
            t.money.equivocationBps = uint16(_uint("terms", i, ".message.money.equivocationBps"));
            t.timing.openBy = uint40(_uint("terms", i, ".message.timing.openBy"));
            t.timing.duration = uint32(_uint("terms", i, ".message.timing.duration"));
            t.timing.startGrace = uint32(_uint("terms", i, ".message.timing.startGrace"));
            t.timing.window = uint32(_uint("terms", i, ".message.timing.window"));
            t.timing.claimWindow = uint32(_uint("terms", i, ".message.timing.claimWindow"));
            t.timing.offlineAllowance =
                uint32(_uint("terms", i, ".message.timing.offlineAllowance"));
            t.timing.arbiterWindow = uint32(_uint("terms", i, ".message.timing.arbiterWindow"));
            t.units = _uint("terms", i, ".message.units");
            t.job = _word("terms", i, ".message.job");
            t.salt = _word("terms", i, ".message.salt");
            _check("terms", i, golden.agreementId(t));
        }
        assertEq(i, 4);
    }

    function test_golden_Vouchers() public {
        _deploy();
        uint256 i;
        for (; _more("vouchers", i); ++i) {
            IEscrowTypes.Voucher memory voucher = IEscrowTypes.Voucher(
                _word("vouchers", i, ".message.agreement"),
                uint96(_uint("vouchers", i, ".message.amount")),
                _word("vouchers", i, ".message.ack"),
                vm.parseJsonBool(json, _at("vouchers", i, ".message.last"))
            );
            _check("vouchers", i, golden.voucherDigest(voucher));
        }
        assertEq(i, 4);
    }

    function test_golden_Heartbeats() public {
        _deploy();
        uint256 i;
        for (; _more("heartbeats", i); ++i) {
            IEscrowTypes.Heartbeat memory beat = IEscrowTypes.Heartbeat(
                _word("heartbeats", i, ".message.agreement"),
                uint64(_uint("heartbeats", i, ".message.sequence")),
                uint40(_uint("heartbeats", i, ".message.at")),
                uint32(_uint("heartbeats", i, ".message.meteredSeconds")),
                uint48(_uint("heartbeats", i, ".message.challenge")),
                _word("heartbeats", i, ".message.state")
            );
            _check("heartbeats", i, golden.heartbeatDigest(beat));
        }
        assertEq(i, 3);
    }

    function test_golden_SettlementsAndExtensions() public {
        _deploy();
        uint256 i;
        for (; _more("settlements", i); ++i) {
            IEscrowTypes.Settlement memory settlement = IEscrowTypes.Settlement(
                _word("settlements", i, ".message.agreement"),
                uint96(_uint("settlements", i, ".message.paid")),
                uint96(_uint("settlements", i, ".message.slashed"))
            );
            _check("settlements", i, golden.settlementDigest(settlement));
        }
        assertEq(i, 3);
        for (i = 0; _more("extensions", i); ++i) {
            IEscrowTypes.Extension memory extension = IEscrowTypes.Extension(
                _word("extensions", i, ".message.agreement"),
                uint96(_uint("extensions", i, ".message.deposit")),
                uint32(_uint("extensions", i, ".message.duration"))
            );
            _check("extensions", i, golden.extensionDigest(extension));
        }
        assertEq(i, 3);
    }

    function test_golden_Accrued() public {
        _load("money.json");
        uint256 i;
        for (; _more("accrued", i); ++i) {
            IEscrowTypes.Terms memory terms = makeTerms();
            terms.money.pricePerHour = uint96(_uint("accrued", i, ".pricePerHour"));
            terms.units = _uint("accrued", i, ".units");
            assertEq(
                escrow.accrued(terms, _uint("accrued", i, ".seconds")),
                _uint("accrued", i, ".accrued")
            );
        }
        assertEq(i, 13);
    }

    function test_golden_Closes() public {
        _load("money.json");
        uint256 i;
        for (; _more("closes", i); ++i) {
            IEscrowTypes.Terms memory terms = makeTerms();
            terms.salt = bytes32(i);
            terms.money.deposit = uint96(_uint("closes", i, ".deposit"));
            terms.money.pricePerHour = uint96(_uint("closes", i, ".pricePerHour"));
            terms.units = _uint("closes", i, ".units");
            uint256 hadR = free(requester);
            uint256 hadP = free(provider);
            vm.warp(START);
            open(terms);
            vm.warp(START + _uint("closes", i, ".elapsed"));
            uint256 locked = hadR - free(requester) - BOND;
            settle(terms, _uint("closes", i, ".voucher"), true);
            assertEq(free(provider) - hadP, _uint("closes", i, ".paid"));
            assertEq(free(requester) + locked - hadR, _uint("closes", i, ".refund"));
        }
        assertEq(i, 8);
    }

    function test_golden_Slashes() public {
        _load("money.json");
        uint256 i;
        for (; _more("slashes", i); ++i) {
            IEscrowTypes.Terms memory terms = makeTerms();
            terms.salt = bytes32(i);
            terms.money.pricePerHour = 0;
            terms.money.collateral = uint96(_uint("slashes", i, ".collateral"));
            terms.money.slashBps = uint16(_uint("slashes", i, ".slashBps"));
            terms.money.victimShareBps = uint16(_uint("slashes", i, ".victimShareBps"));
            // A provider of its own for each row, so that stakes do not run out.
            providerKey = 0xD00D + i;
            terms.parties.provider = vm.addr(providerKey);
            fund(terms.parties.provider, 60e6);
            vm.prank(terms.parties.provider);
            escrow.stake(address(token), 60e6);
            vm.warp(START);
            open(terms);
            vm.warp(START + GRACE);
            challenge(terms, 1);
            vm.warp(START + GRACE + WINDOW + 1);
            uint256 burned = escrow.burned(address(token));
            uint256 left = staked(terms.parties.provider);
            vm.expectEmit();
            emit IEscrowEvents.Slashed(
                escrow.agreementId(terms),
                _uint("slashes", i, ".slashed"),
                _uint("slashes", i, ".toVictim"),
                _uint("slashes", i, ".burned")
            );
            escrow.slash(terms);
            assertEq(escrow.burned(address(token)) - burned, _uint("slashes", i, ".burned"));
            assertEq(staked(terms.parties.provider) - left, _uint("slashes", i, ".back"));
        }
        assertEq(i, 9);
    }
}
