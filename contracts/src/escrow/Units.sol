// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrow} from "../IEscrow.sol";

/// @title The units
/// @notice One bitmap a provider: a unit in a live agreement cannot enter another.
abstract contract Units is IEscrow {
    uint256 private constant BIT_255 = 1 << 255;

    /// @dev provider => units 0-254 that are taken. Bit 255 only marks that the slot is in use: a
    /// slot that never returns to zero costs a provider that was idle 17,100 gas less to open.
    mapping(address => uint256) private _units;
    /// @dev provider => whether unit 255 is taken
    mapping(address => bool) private _unit255;

    function unitsTaken(address provider) external view returns (uint256) {
        return (_units[provider] & ~BIT_255) | (_unit255[provider] ? BIT_255 : 0);
    }

    function _takeUnits(address provider, uint256 units) internal {
        uint256 low = _units[provider];
        uint256 taken = low & units & ~BIT_255;
        if (units & BIT_255 != 0) {
            if (_unit255[provider]) taken |= BIT_255;
            _unit255[provider] = true;
        }
        if (taken != 0) revert Escrow_UnitsTaken(provider, taken);
        _units[provider] = low | units | BIT_255;
    }

    function _freeUnits(address provider, uint256 units) internal {
        if (units & BIT_255 != 0) _unit255[provider] = false;
        _units[provider] = (_units[provider] & ~units) | BIT_255;
    }
}
