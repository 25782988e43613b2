// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowTypes} from "../IEscrowTypes.sol";

/// @title Where each field of the terms lies in calldata
/// @notice Reads a field by its place and masks it, which costs a quarter of what the compiler's
/// checked read does; an operation reads up to fifty. Padding that is not zero is cut off here, but
/// it is hashed: such terms have an id of their own, that nobody signs by accident.
/// testFuzz_layout_ReadsWhatTheCompilerReads holds every line of it to the compiler.
library TermsLayout {
    function requester(IEscrowTypes.Terms calldata terms) internal pure returns (address a) {
        assembly ("memory-safe") {
            a := shr(96, shl(96, calldataload(terms)))
        }
    }

    function provider(IEscrowTypes.Terms calldata terms) internal pure returns (address a) {
        assembly ("memory-safe") {
            a := shr(96, shl(96, calldataload(add(terms, 0x20))))
        }
    }

    function requesterSigner(IEscrowTypes.Terms calldata terms) internal pure returns (address a) {
        assembly ("memory-safe") {
            a := shr(96, shl(96, calldataload(add(terms, 0x40))))
        }
    }

    function providerSigner(IEscrowTypes.Terms calldata terms) internal pure returns (address a) {
        assembly ("memory-safe") {
            a := shr(96, shl(96, calldataload(add(terms, 0x60))))
        }
    }

    function token(IEscrowTypes.Terms calldata terms) internal pure returns (address a) {
        assembly ("memory-safe") {
            a := shr(96, shl(96, calldataload(add(terms, 0x80))))
        }
    }

    function arbiter(IEscrowTypes.Terms calldata terms) internal pure returns (address a) {
        assembly ("memory-safe") {
            a := shr(96, shl(96, calldataload(add(terms, 0xa0))))
        }
    }

    function deposit(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0xc0)), 0xffffffffffffffffffffffff)
        }
    }

    function collateral(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0xe0)), 0xffffffffffffffffffffffff)
        }
    }

    function pricePerHour(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x100)), 0xffffffffffffffffffffffff)
        }
    }

    function bond(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x120)), 0xffffffffffffffffffffffff)
        }
    }

    function slashBps(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x140)), 0xffff)
        }
    }

    function victimShareBps(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x160)), 0xffff)
        }
    }

    function equivocationBps(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x180)), 0xffff)
        }
    }

    function openBy(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x1a0)), 0xffffffffff)
        }
    }

    function duration(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x1c0)), 0xffffffff)
        }
    }

    function startGrace(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x1e0)), 0xffffffff)
        }
    }

    function window(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x200)), 0xffffffff)
        }
    }

    function claimWindow(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x220)), 0xffffffff)
        }
    }

    function offlineAllowance(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x240)), 0xffffffff)
        }
    }

    function arbiterWindow(IEscrowTypes.Terms calldata terms) internal pure returns (uint256 n) {
        assembly ("memory-safe") {
            n := and(calldataload(add(terms, 0x260)), 0xffffffff)
        }
    }
}
