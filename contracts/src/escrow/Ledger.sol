// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {Preset} from "./Preset.sol";

/// @title The ledger
/// @notice Who has how much, free and staked. Numbers only: touches no token.
abstract contract Ledger is Preset {
    using SafeCast for uint256;

    /// @dev One slot: what a close pays, refunds and gives back is one write for each party.
    struct Account {
        uint128 free;
        uint128 stake;
    }

    /// @dev token => account
    mapping(address => mapping(address => Account)) private _accounts;

    mapping(address => uint256) public burned;

    function _balances(address token, address account)
        internal
        view
        returns (uint256 free, uint256 staked)
    {
        Account storage balances = _accounts[token][account];
        return (balances.free, balances.stake);
    }

    function _addFree(address token, address account, uint256 amount) internal {
        _accounts[token][account].free += amount.toUint128();
    }

    function _addStake(address token, address account, uint256 amount) internal {
        _accounts[token][account].stake += amount.toUint128();
    }

    /// @dev Both at once, for the end of an agreement. Checked like two additions of uint128.
    function _addBoth(address token, address account, uint256 free, uint256 staked) internal {
        Account storage balances = _accounts[token][account];
        uint128 newFree = SafeCast.toUint128(balances.free + free);
        uint128 newStake = SafeCast.toUint128(balances.stake + staked);
        (balances.free, balances.stake) = (newFree, newStake);
    }

    function _takeFree(address token, address account, uint256 amount) internal {
        Account storage balances = _accounts[token][account];
        uint256 free = balances.free;
        if (free < amount) revert Escrow_InsufficientFree(token, account, free, amount);
        unchecked {
            balances.free = uint128(free - amount); // amount <= free, a uint128
        }
    }

    function _takeStake(address token, address account, uint256 amount) internal {
        Account storage balances = _accounts[token][account];
        uint256 staked = balances.stake;
        if (staked < amount) revert Escrow_InsufficientStake(token, account, staked, amount);
        unchecked {
            balances.stake = uint128(staked - amount); // amount <= staked, a uint128
        }
    }

    function _burn(address token, uint256 amount) internal {
        if (amount != 0) burned[token] += amount;
    }
}
