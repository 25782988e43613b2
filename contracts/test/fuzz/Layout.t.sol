// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Test} from "forge-std/Test.sol";

import {IEscrowTypes} from "../../src/IEscrowTypes.sol";
import {TermsLayout} from "../../src/escrow/TermsLayout.sol";

/// @notice TermsLayout reads by place and mask; the compiler is the judge of every place.
contract LayoutTest is Test {
    using TermsLayout for IEscrowTypes.Terms;

    function read(IEscrowTypes.Terms calldata t) external pure returns (bytes memory) {
        address[6] memory parties = [
            t.requester(),
            t.provider(),
            t.requesterSigner(),
            t.providerSigner(),
            t.token(),
            t.arbiter()
        ];
        uint256[7] memory money = [
            t.deposit(),
            t.collateral(),
            t.pricePerHour(),
            t.bond(),
            t.slashBps(),
            t.victimShareBps(),
            t.equivocationBps()
        ];
        uint256[7] memory timing = [
            t.openBy(),
            t.duration(),
            t.startGrace(),
            t.window(),
            t.claimWindow(),
            t.offlineAllowance(),
            t.arbiterWindow()
        ];
        return abi.encode(parties, money, timing);
    }

    function testFuzz_layout_ReadsWhatTheCompilerReads(IEscrowTypes.Terms memory terms)
        public
        view
    {
        assertEq(
            this.read(terms), abi.encode(terms.parties, terms.money, terms.timing), "the layout"
        );
    }

    /// @dev Whatever lies above a field's bits is not read.
    function testFuzz_layout_CutsPaddingOff(IEscrowTypes.Terms memory terms, uint256 dirt)
        public
        view
    {
        bytes memory clean = abi.encodeCall(this.read, (terms));
        bytes memory dirty = abi.encodeCall(this.read, (terms));
        uint8[20] memory bits =
            [160, 160, 160, 160, 160, 160, 96, 96, 96, 96, 16, 16, 16, 40, 32, 32, 32, 32, 32, 32];
        for (uint256 i; i < 20; ++i) {
            uint256 noise = uint256(keccak256(abi.encode(dirt, i))) << bits[i];
            assembly ("memory-safe") {
                let at := add(dirty, add(0x24, shl(5, i)))
                mstore(at, or(mload(at), noise))
            }
        }
        (, bytes memory first) = address(this).staticcall(clean);
        (, bytes memory second) = address(this).staticcall(dirty);
        assertEq(first, second);
        assertNotEq(keccak256(clean), keccak256(dirty));
    }
}
